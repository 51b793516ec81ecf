"""Any backbone of timm as an encoder: classifiers by name, vision and Swin transformers of any
size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from torch import Tensor, nn

from allograft.errors import SpecError, nearest
from allograft.networks.network import Network
from allograft.networks.parts import dense_output, heads_of


class TimmEncoder(nn.Module):
    """(B, C, H, W) -> the features timm names for a model, finest first; those of a vision
    transformer are its blocks, all of one size.

    Args:
        body: a model of timm without a classifier.
    """

    def __init__(self, body: Any) -> None:
        super().__init__()
        if not hasattr(body, "forward_intermediates"):
            raise SpecError(
                f"network timm: {type(body).__name__} does not give its intermediate features; choose another timm name"
            )
        self.paths: list[str] = [str(info["module"]) for info in body.feature_info]
        self.channels: list[int] = [int(info["num_chs"]) for info in body.feature_info]
        self.strides: list[int] = [int(info["reduction"]) for info in body.feature_info]
        body.prune_intermediate_layers(
            len(self.paths), prune_norm=False, prune_head=True
        )  # what no feature needs is not kept
        self.body = body

    @property
    def levels(self) -> list[nn.ParameterList]:
        """The parameters of each feature: all that comes after the feature before it, the first
        one's stem and the last one's norm too."""
        names = [name for name, _ in self.body.named_modules()]
        inside = [
            [at for at, name in enumerate(names) if name == path or name.startswith(f"{path}.")] for path in self.paths
        ]
        ends = [max(each) for each in inside]
        levels: list[list[nn.Parameter]] = [[] for _ in self.paths]
        for at, module in enumerate(self.body.modules()):
            level = next((number for number, end in enumerate(ends) if at <= end), len(ends) - 1)
            levels[level] += module.parameters(recurse=False)
        return [nn.ParameterList(level) for level in levels]

    def forward(self, image: Tensor) -> list[Tensor]:
        features: list[Tensor] = self.body.forward_intermediates(image, norm=True, intermediates_only=True)
        return features

    @property
    def token_size(self) -> int:
        """Pixels of a patch along every axis; 0 of a model that is no vision or Swin
        transformer."""
        from timm.models.swin_transformer import SwinTransformer
        from timm.models.vision_transformer import VisionTransformer

        if not isinstance(self.body, (VisionTransformer, SwinTransformer)):
            return 0
        sizes = set(cast("tuple[int, ...]", self.body.patch_embed.patch_size))
        return int(sizes.pop()) if len(sizes) == 1 else 0

    @property
    def token_channels(self) -> int:
        """Channels of a token."""
        return int(self.body.embed_dim)

    def embed(self, image: Tensor) -> Tensor:
        """See ``TokenEncoder``."""
        tokens: Tensor = self.body.patch_embed(image)
        # a vision transformer of one image size gives its tokens in a row
        return tokens if tokens.ndim == 4 else tokens.unflatten(1, self.body.patch_embed.grid_size)

    def encode(self, tokens: Tensor) -> list[Tensor]:
        """See ``TokenEncoder``; the same modules in the same order as timm's
        ``forward_intermediates``."""
        if hasattr(self.body, "layers"):  # Swin: stages of falling resolution
            stages = []
            for stage in self.body.layers:
                tokens = stage(tokens)
                stages.append(tokens)
            return [feature.movedim(-1, 1).contiguous() for feature in (*stages[:-1], self.body.norm(stages[-1]))]
        body, grid, features = self.body, tokens.shape[1:3], []
        row = body._pos_embed(tokens if body.dynamic_img_size else tokens.flatten(1, 2))
        row = body.norm_pre(body.patch_drop(row))
        for block in body.blocks:
            row = block(row)
            features.append(body.norm(row)[:, body.num_prefix_tokens :])
        return [feature.mT.unflatten(2, grid).contiguous() for feature in features]


def classifier(network: str, body: Any, outputs: Mapping[str, int]) -> Network:
    """A timm model and a head on its last feature."""
    dense_output(network, outputs, ("label",))
    encoder = TimmEncoder(body)
    return Network(encoder, None, heads_of(outputs, encoder.channels[-1], None), aliases=aliases(body))


def aliases(body: nn.Module) -> dict[str, str]:
    """The names in timm -> ours."""
    return {name: f"encoder.body.{name}" for name in body.state_dict()}


def created(name: str, in_channels: int, **arguments: Any) -> Any:
    """A timm model without classifier, its weights drawn. ``SpecError`` for an unknown name or
    refused arguments."""
    import timm as library

    if "pretrained" in arguments:
        raise SpecError(
            f"network timm: weights are named by start, so that a saved model needs no download: start: timm:{name}"
        )
    if ":" in name or not library.is_model(name):
        raise SpecError(f"network: {nearest(name, library.list_models(), 'timm model')}")
    try:
        return library.create_model(name, pretrained=False, in_chans=in_channels, num_classes=0, **arguments)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise SpecError(
            f"network: timm model '{name}': {error}; see its arguments in the documentation of timm"
        ) from error


def timm(in_channels: int, outputs: Mapping[str, int], *, name: str, **arguments: Any) -> Network:
    """Any model of timm by name, as a classifier; arguments are those of ``timm.create_model``.

    Args:
        in_channels: image channels.
        outputs: ``{"label": K}``.
        name: for example ``convnext_atto``. Transformers take images of their own size alone, or
            any with ``dynamic_img_size: true``.
    """
    return classifier("timm", created(name, in_channels, **arguments), outputs)


def vit(
    in_channels: int,
    outputs: Mapping[str, int],
    *,
    image_size: int = 224,
    patch_size: int = 16,
    embed_dim: int = 192,
    depth: int = 12,
    num_heads: int = 3,
    drop_path: float = 0.0,
) -> Network:
    """Vision transformer (Dosovitskiy et al. 2021), 2-D, for images of any size; the defaults are
    timm's ``vit_tiny_patch16_224``.

    The head takes the mean over patches; the class token is there so that published weights fit.

    Args:
        in_channels: image channels.
        outputs: ``{"label": K}``.
        image_size: the size its position table is made for; it is resampled for others.
        patch_size, embed_dim, depth, num_heads: of the transformer.
        drop_path: largest rate of stochastic depth.
    """
    from timm.models.vision_transformer import VisionTransformer

    body = VisionTransformer(
        img_size=image_size,
        patch_size=patch_size,
        in_chans=in_channels,
        num_classes=0,
        embed_dim=embed_dim,
        depth=depth,
        num_heads=num_heads,
        drop_path_rate=drop_path,
        dynamic_img_size=True,
        dynamic_img_pad=True,
    )
    return classifier("vit", body, outputs)


def swin(
    in_channels: int,
    outputs: Mapping[str, int],
    *,
    image_size: int = 224,
    patch_size: int = 4,
    embed_dim: int = 96,
    depths: Sequence[int] = (2, 2, 6, 2),
    num_heads: Sequence[int] = (3, 6, 12, 24),
    window_size: int = 7,
    drop_path: float = 0.1,
) -> Network:
    """Swin transformer (Liu et al. 2021), 2-D, for images of any size; the defaults are timm's
    ``swin_tiny_patch4_window7_224``.

    Args:
        in_channels: image channels.
        outputs: ``{"label": K}``.
        image_size: what the windows are laid out for; others are padded to complete windows.
        patch_size, embed_dim, depths, num_heads, window_size: of the transformer.
        drop_path: largest rate of stochastic depth.
    """
    from timm.models.swin_transformer import SwinTransformer

    body = SwinTransformer(
        img_size=image_size,
        patch_size=patch_size,
        in_chans=in_channels,
        num_classes=0,
        embed_dim=embed_dim,
        depths=tuple(depths),
        num_heads=tuple(num_heads),
        window_size=window_size,
        drop_path_rate=drop_path,
        dynamic_img_size=True,
        strict_img_size=False,
    )
    return classifier("swin", body, outputs)
