"""ResNet and DenseNet-121: timm's in 2-D, MONAI's in 3-D."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from allograft.errors import SpecError
from allograft.networks.backbone import classifier, created
from allograft.networks.network import Network
from allograft.networks.parts import ChainEncoder, dense_output, heads_of, renamed

DEPTHS = (18, 34, 50, 101, 152)


def resnet(
    in_channels: int, outputs: Mapping[str, int], *, spatial_dims: int = 2, depth: int = 18, small_stem: bool = False
) -> Network:
    """ResNet (He et al. 2016) as a classifier: timm's in 2-D, MONAI's in 3-D.

    Args:
        in_channels: image channels.
        outputs: ``{"label": K}``.
        spatial_dims: 2 or 3.
        depth: 18, 34, 50, 101 or 152.
        small_stem: a first convolution of 3 pixels without stride and no pooling after it, as for
            CIFAR: for images below about 64 pixels, of which the usual stem would leave a sixteenth
            of the pixels.
    """
    if depth not in DEPTHS or spatial_dims not in (2, 3):
        raise SpecError(
            f"network resnet: found depth {depth} in {spatial_dims}-D; expected one of {', '.join(map(str, DEPTHS))} "
            "in 2-D or 3-D"
        )
    if spatial_dims == 3:
        return _resnet_3d(in_channels, outputs, depth, small_stem=small_stem)
    body = created(f"resnet{depth}", in_channels)
    if small_stem:
        body.conv1 = nn.Conv2d(in_channels, body.conv1.out_channels, 3, 1, 1, bias=False)
        nn.init.kaiming_normal_(body.conv1.weight, mode="fan_out", nonlinearity="relu")
        body.maxpool = nn.Identity()
        body.feature_info = [{**info, "reduction": max(info["reduction"] // 4, 1)} for info in body.feature_info]
    return classifier("resnet", body, outputs)


def _resnet_3d(in_channels: int, outputs: Mapping[str, int], depth: int, *, small_stem: bool) -> Network:
    from monai.networks import nets

    dense_output("resnet", outputs, ("label",))
    stem: dict[str, Any] = (
        {"conv1_t_size": 3, "conv1_t_stride": 1, "no_max_pool": True} if small_stem else {"conv1_t_stride": 2}
    )
    whole: Any = getattr(nets, f"resnet{depth}")(
        spatial_dims=3, n_input_channels=in_channels, feed_forward=False, **stem
    )
    first = nn.Sequential(whole.layer1) if small_stem else nn.Sequential(whole.maxpool, whole.layer1)
    levels = [nn.Sequential(whole.conv1, whole.bn1, whole.act), first, whole.layer2, whole.layer3, whole.layer4]
    network = Network(ChainEncoder(levels), None, heads_of(outputs, 512 if depth < 50 else 2048, None))
    network.aliases = renamed(whole, network)
    return network


def densenet121(in_channels: int, outputs: Mapping[str, int], *, spatial_dims: int = 2) -> Network:
    """DenseNet-121 (Huang et al. 2017) as a classifier: timm's in 2-D, MONAI's in 3-D.

    Args:
        in_channels: image channels.
        outputs: ``{"label": K}``.
        spatial_dims: 2 or 3.
    """
    if spatial_dims == 2:
        return classifier("densenet121", created("densenet121", in_channels), outputs)
    from monai.networks.nets import DenseNet121

    dense_output("densenet121", outputs, ("label",))
    whole: Any = DenseNet121(spatial_dims=spatial_dims, in_channels=in_channels, out_channels=1)
    part = dict(whole.features.named_children())
    levels = [
        nn.Sequential(part["conv0"], part["norm0"], part["relu0"]),
        nn.Sequential(part["pool0"], part["denseblock1"]),
        nn.Sequential(part["transition1"], part["denseblock2"]),
        nn.Sequential(part["transition2"], part["denseblock3"]),
        nn.Sequential(part["transition3"], part["denseblock4"], part["norm5"], nn.ReLU()),
    ]
    network = Network(ChainEncoder(levels), None, heads_of(outputs, part["norm5"].num_features, None))
    network.aliases = renamed(whole, network)
    return network
