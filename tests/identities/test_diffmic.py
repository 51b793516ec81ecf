"""DiffMIC: what must be equal."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from allograft.batch import Batch
from allograft.methods.diffmic import DiffMic, DiffMicObjective, GatedAttention, denoise_step, diffuse, mmd, select_rois
from allograft.networks import build, rebuilt
from allograft.networks.diffmic import DiffMicNetwork, Guided
from allograft.nn.denoiser import Denoiser, Folded
from allograft.nn.diffusion import implicit_step, linear_alphas, sampling_alphas
from allograft.nn.rois import crop
from allograft.predictor import evaluation_mode
from allograft.predictor.denoising import conditions
from allograft.tasks.classification import Classification

TASK = Classification(("no", "maybe", "yes"))
QUICK = DiffMic(warmup=0, crops=2, crop_size=8, width=16, training_steps=20, steps=6, samples=3)


def a_network(recipe: DiffMic = QUICK, seed: int = 0) -> DiffMicNetwork:
    """With running statistics that have moved."""
    torch.manual_seed(seed)
    unet = {"in_channels": 1, "outputs": {"label": 3}, "channels": [4, 8], "num_res_units": 1, "norm": "batch"}
    network = recipe._operated(build({"build": {"unet": unet}}))
    for _ in range(3):
        network.train()(torch.rand(4, 1, 16, 16))
        if network.denoiser is not None:
            image = network.embed(torch.rand(4, 1, 16, 16))
            vectors = torch.rand(4, network.denoiser.layers[0].in_features - 3)
            network.denoiser(torch.randn(4, 3), vectors, image, torch.randint(20, (4,)))
    return network


def images(count: int = 3, size: int = 16) -> Batch:
    rng = torch.Generator().manual_seed(1)
    values = torch.rand(count, 1, size, size, generator=rng)
    return Batch(values, torch.zeros(count, dtype=torch.int64), tuple(f"{n}.png" for n in range(count)))


# ------------------------------------------------------------------ the process
def test_one_step_with_the_true_noise_gives_the_vector_back() -> None:
    y0, prior, noise = torch.randn(3, 5, 4, dtype=torch.float64).unbind(0)
    alphas = linear_alphas(1)
    noisy = diffuse(y0, prior, alphas.prod(), noise)
    torch.testing.assert_close(denoise_step(noisy, 0, prior, noise, torch.full_like(y0, 9.0), alphas), y0)
    torch.testing.assert_close(diffuse(y0, prior, 1.0, noise), y0)
    torch.testing.assert_close(diffuse(y0, prior, 0.0, noise), prior + noise)


@given(st.integers(1, 40), st.integers(0, 2**20))
def test_a_step_is_the_posterior_of_the_forward_process(steps: int, seed: int) -> None:
    """Bayes' rule on y_t | y_{t-1} and y_{t-1} | y_0, both Gaussian, at a step of its own for each
    case."""
    rng = torch.Generator().manual_seed(seed)
    y0, prior, noise, drawn = torch.randn(4, 6, 3, generator=rng, dtype=torch.float64).unbind(0)
    alphas = torch.rand(steps, generator=rng, dtype=torch.float64) * 0.5 + 0.45
    t = torch.randint(steps, (6,), generator=rng)
    bars = alphas.cumprod(0)
    y = diffuse(y0, prior, bars[t], noise)
    found = denoise_step(y, t, prior, noise, drawn, alphas)
    for case in range(6):
        at = int(t[case])
        if at == 0:
            torch.testing.assert_close(found[case], y0[case])
            continue
        alpha, before = alphas[at], bars[at - 1]
        forward_mean = before.sqrt() * y0[case] + (1 - before.sqrt()) * prior[case]
        # y_t = sqrt(alpha) y_{t-1} + (1 - sqrt(alpha)) prior + sqrt(1 - alpha) e
        seen = (y[case] - (1 - alpha.sqrt()) * prior[case]) / alpha.sqrt()
        precision = 1 / (1 - before) + alpha / (1 - alpha)
        mean = (forward_mean / (1 - before) + seen * alpha / (1 - alpha)) / precision
        torch.testing.assert_close(found[case], mean + drawn[case] / precision.sqrt())


def test_steps_that_are_skipped_multiply() -> None:
    whole = linear_alphas(50).cumprod(0)
    for count in (1, 2, 7, 50):
        times, alphas = sampling_alphas(50, count, "respaced")
        assert len(times) == len(alphas) == count
        assert times[-1] == 49
        assert times == sorted(set(times))
        torch.testing.assert_close(alphas.cumprod(0), whole[times])
    times, alphas = sampling_alphas(50, 7, "released")
    assert times == list(range(7))
    assert torch.equal(alphas, linear_alphas(50)[:7])
    assert torch.equal(
        sampling_alphas(50, 50, "respaced")[1].cumprod(0), sampling_alphas(50, 50, "released")[1].cumprod(0)
    )


def test_an_implicit_step_stays_on_the_path_of_its_noise() -> None:
    y0, prior, noise = torch.randn(3, 5, 4, dtype=torch.float64).unbind(0)
    alphas = linear_alphas(9)
    y = diffuse(y0, prior, alphas.prod(), noise)
    for t in range(8, -1, -1):
        y = implicit_step(y, t, prior, noise, alphas)
        torch.testing.assert_close(y, diffuse(y0, prior, float(alphas[:t].prod()) if t else 1.0, noise))


def test_the_discrepancy_of_a_sample_with_itself_is_0() -> None:
    x, y = torch.randn(8, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64) + 2
    assert abs(float(mmd(x, x))) < 1e-12
    torch.testing.assert_close(mmd(x, y), mmd(y, x))
    assert float(mmd(x, y)) > 0.1
    assert torch.autograd.gradcheck(lambda a: mmd(x, a), y.requires_grad_())


def test_windows_of_an_image_that_is_not_square_lie_where_its_cells_are() -> None:
    saliency = torch.tensor([[[[0.0, 1.0, 0.0], [3.0, 2.0, 5.0]]]])
    assert select_rois(saliency, (8, 30), (4, 10), 3).tolist() == [[[4, 20], [4, 0], [4, 10]]]


# ------------------------------------------------------------------ regions
def test_windows_do_not_share_cells_and_a_constant_map_has_no_nan() -> None:
    corners = select_rois(torch.zeros(2, 3, 4, 4), 64, 16, 5)
    assert corners[0].tolist() == [[0, 0], [0, 16], [0, 32], [0, 48], [16, 0]]
    half = torch.rand(2, 2, 6, 6)
    half[:, 1] = 7.0  # a constant class adds nothing
    assert torch.equal(select_rois(half, 60, 20, 3), select_rois(half[:, :1], 60, 20, 3))
    # nor does the scale of a class
    assert torch.equal(select_rois(half[:, :1] * 9 - 4, 60, 20, 3), select_rois(half[:, :1], 60, 20, 3))
    inside = crop(torch.rand(1, 2, 9, 9), torch.tensor([[[8, -3], [0, 0]]]), 4)
    assert inside.shape == (1, 2, 2, 4, 4)


def test_crops_are_of_their_own_image() -> None:
    image = torch.arange(2 * 3 * 6 * 6.0).view(2, 3, 6, 6)
    corners = torch.tensor([[[0, 1], [2, 3]], [[3, 0], [1, 1]]])
    found = crop(image, corners, (2, 3))
    for n in range(2):
        for k in range(2):
            r, c = corners[n, k].tolist()
            assert torch.equal(found[n, k], image[n, :, r : r + 2, c : c + 3])


def test_attention_is_that_of_ilse_and_of_equal_regions_the_mean() -> None:
    torch.manual_seed(0)
    attention, features = GatedAttention(6, 4), torch.randn(2, 5, 6)
    fused, weights = attention(features)
    v, u, w = attention.tanh.weight, attention.sigmoid.weight, attention.weight.weight[0]
    scores = torch.tensor([[float(w @ (torch.tanh(v @ h) * torch.sigmoid(u @ h))) for h in bag] for bag in features])
    torch.testing.assert_close(weights, scores.softmax(1))
    torch.testing.assert_close(
        fused,
        torch.stack([sum(a * h for a, h in zip(*one, strict=True)) for one in zip(weights, features, strict=True)]),
    )
    alike = features[:, :1].expand(-1, 5, -1)
    torch.testing.assert_close(attention(alike)[0], features[:, 0])
    assert not any(p.ndim == 1 for p in attention.parameters())


# ------------------------------------------------------------------ the networks
def test_folded_is_the_denoiser() -> None:
    torch.manual_seed(0)
    denoiser = Denoiser(9, 3, 32, 11)
    for _ in range(4):
        denoiser(torch.randn(8, 3), torch.rand(8, 6), torch.randn(8, 32), torch.randint(11, (8,)))
    denoiser.eval()
    with torch.no_grad():
        y, vectors, image = torch.randn(5, 3), torch.rand(5, 6), torch.randn(5, 32)
        folded = Folded(denoiser, vectors, image)
        rough = Folded(denoiser, vectors, image, bfloat16=True)
        for t in (0, 4, 10):
            expected = denoiser(y, vectors, image, torch.full((5,), t))
            torch.testing.assert_close(folded(y, t), expected, rtol=1e-4, atol=1e-5)
            assert not torch.equal(rough(y, t), folded(y, t))
            torch.testing.assert_close(rough(y, t), expected, rtol=0.05, atol=0.05)


def test_streams_begin_as_the_studys_encoder_and_have_weights_of_their_own() -> None:
    torch.manual_seed(2)
    unet = {"in_channels": 1, "outputs": {"label": 3}, "channels": [4, 8], "norm": "batch"}
    start = build({"build": {"unet": unet}})
    made = QUICK._operated(start)
    assert made.guidance is not None
    for stream in (made.guidance.whole_encoder, made.guidance.local_encoder):
        own, given_ = dict(stream.state_dict()), dict(made.encoder.state_dict())
        assert all(torch.equal(own[key], value) for key, value in given_.items())
        assert not {id(p) for p in stream.parameters()} & {id(p) for p in made.encoder.parameters()}
    again = rebuilt(made.spec, made.state_dict())
    image = images().image
    with evaluation_mode(made, again):
        assert torch.equal(made(image)["label"], again(image)["label"])
        guided = made.guidance(image)
        assert torch.equal(guided.whole, guided.saliency.mean((2, 3)))
        assert torch.equal(made(image)["label"], (guided.whole + guided.local) / 2)


@pytest.mark.parametrize("prior", ["sum", "mean_softmax"])
def test_passes_by_one_prior_see_that_one_alone(prior: Any) -> None:
    """In y_t and in the condition (eq. 5)."""
    whole, local = torch.randn(2, 4, 3).unbind(0)
    nothing = torch.zeros(0)
    passes = conditions(Guided(whole, local, nothing, nothing, nothing), prior)
    changed = conditions(Guided(whole, local + torch.randn(4, 3), nothing, nothing, nothing), prior)
    for a, b in zip(passes["whole"], changed["whole"], strict=True):
        assert torch.equal(a, b)
    for name in ("both", "local"):
        assert not torch.equal(passes[name].drift, changed[name].drift)
        assert not torch.equal(passes[name].vectors, changed[name].vectors)
    g, l = whole.softmax(1), local.softmax(1)  # noqa: E741 - the paper's name
    if prior == "sum":
        torch.testing.assert_close(passes["both"].drift, g + l)
        torch.testing.assert_close(passes["both"].vectors, torch.cat([g, l], 1))
        torch.testing.assert_close(passes["local"].vectors, torch.cat([l, l], 1))
    else:
        torch.testing.assert_close(passes["both"].drift, ((whole + local) / 2).softmax(1))
        torch.testing.assert_close(passes["both"].vectors, passes["both"].drift)
    torch.testing.assert_close(passes["whole"].drift, g)
    torch.testing.assert_close(passes["local"].drift, l)


# ------------------------------------------------------------------ the loss
def labelled(recipe: DiffMic) -> Batch:
    rng = torch.Generator().manual_seed(5)
    drawn = {
        "diffusion step": torch.tensor([0, 7, 19, 3]),
        "diffusion noise": torch.randn(4, 3, generator=rng),
    }
    return replace(images(4), labels={"label": torch.tensor([0, 2, 1, 2])}, attributes=drawn)


@pytest.mark.parametrize("gradient", [True, False])
def test_the_diffusion_reaches_the_guidance_only_where_it_is_meant_to(gradient: bool) -> None:
    recipe = replace(QUICK, guidance_gradient=gradient)
    network = a_network(recipe).train()
    terms = DiffMicObjective(recipe, TASK)(network, labelled(recipe))
    assert set(terms) == {"cross_entropy", "noise", "mmd/whole", "mmd/local"}
    (terms["noise"] + terms["mmd/whole"] + terms["mmd/local"]).backward()
    assert network.guidance is not None
    reached = any(p.grad is not None and bool(p.grad.any()) for p in network.guidance.parameters())
    assert reached == gradient
    assert all(p.grad is not None for p in network.denoiser.parameters() if p.requires_grad)  # type: ignore[union-attr]


def test_terms_are_those_of_equations_4_to_6() -> None:
    """Written out case by case, with the network's own passes."""
    recipe = replace(QUICK, mmd=0.7)
    network, batch = a_network(recipe).eval(), labelled(recipe)
    assert network.guidance is not None
    assert network.denoiser is not None
    terms = DiffMicObjective(recipe, TASK)(network, batch)
    guided = network.guidance(batch.image)
    y_g, y_l = guided.whole.softmax(1), guided.local.softmax(1)
    bars = [float((1 - torch.linspace(1e-4, 0.02, 20, dtype=torch.float64))[: t + 1].prod()) for t in (0, 7, 19, 3)]
    noise = batch.attributes["diffusion noise"]
    label = batch.labels["label"]
    assert isinstance(label, Tensor)
    y0 = torch.eye(3)[label]

    def predicted(drift: Tensor, vectors: Tensor) -> Tensor:
        rows = [a**0.5 * y0[n] + (1 - a) ** 0.5 * noise[n] + (1 - a**0.5) * drift[n] for n, a in enumerate(bars)]
        return network.denoiser(
            torch.stack(rows), vectors, network.embed(batch.image), batch.attributes["diffusion step"]
        )  # type: ignore[misc]

    both = predicted(y_g + y_l, torch.cat([y_g, y_l], 1))
    torch.testing.assert_close(terms["noise"], (both - noise).square().mean())
    torch.testing.assert_close(terms["mmd/whole"], 0.7 * mmd(noise, predicted(y_g, torch.cat([y_g, y_g], 1))))
    torch.testing.assert_close(terms["mmd/local"], 0.7 * mmd(noise, predicted(y_l, torch.cat([y_l, y_l], 1))))
    picked = guided.fused.log_softmax(1)[torch.arange(4), label]
    torch.testing.assert_close(terms["cross_entropy"], -picked.mean())
    assert set(DiffMicObjective(recipe, TASK, warm=True)(network, batch)) == {"cross_entropy"}
    plain = replace(QUICK, guidance=False, mmd=0.0)
    assert set(DiffMicObjective(plain, TASK)(a_network(plain), batch)) == {"noise"}
    without = replace(QUICK, mmd=0.0)
    assert set(DiffMicObjective(without, TASK)(network, batch)) == {"cross_entropy", "noise"}


# ------------------------------------------------------------------ prediction
def slowly(network: DiffMicNetwork, recipe: DiffMic, batch: Batch, noise: Tensor) -> Tensor:
    """Every step anew: encoders, guidance and denoiser called with all they take; (B, S, K)."""
    times, alphas = sampling_alphas(20, recipe.steps, recipe.spacing)
    samples = []
    for sample in range(recipe.samples):
        y: Tensor | None = None
        for t in range(recipe.steps - 1, -1, -1):
            assert network.guidance is not None
            assert network.denoiser is not None
            guided = network.guidance(batch.image)
            given_ = conditions(guided, recipe.prior)["both"]
            start = (guided.whole.softmax(1) + guided.local.softmax(1)) / 2 if recipe.start == "paper" else given_.drift
            y = start + noise[:, sample, recipe.steps] if y is None else y
            t_of = torch.full((len(batch),), times[t])
            e = network.denoiser(y, given_.vectors, network.embed(batch.image), t_of)
            y = denoise_step(y, t, given_.drift, e, noise[:, sample, t], alphas)
        assert y is not None
        samples.append(y)
    return torch.stack(samples, 1)


@pytest.mark.parametrize("start", ["paper", "forward"])
@pytest.mark.parametrize("spacing", ["respaced", "released"])
def test_the_predictor_is_the_slow_sampler(start: Any, spacing: Any) -> None:
    from allograft.predictor.noise import content_noise

    recipe = replace(QUICK, start=start, spacing=spacing)
    network, batch = a_network(recipe).eval(), images()
    found = recipe.predictor(network)(batch)
    with evaluation_mode(network):
        noise = content_noise(batch.image, (3, 7, 3), "diffmic")
        each = slowly(network, recipe, batch, noise)
    torch.testing.assert_close(found["label"].exp(), (each / 0.2).softmax(2).mean(1), rtol=1e-3, atol=1e-4)  # type: ignore[union-attr]
    torch.testing.assert_close(found["spread"], each.std(1, correction=0).mean(1), rtol=1e-3, atol=1e-4)
    assert "spread" not in replace(recipe, samples=1).predictor(network)(batch)


def test_the_feature_of_a_step_is_what_its_noise_is_made_of() -> None:
    network, batch = a_network().eval(), images()
    predictor = QUICK.predictor(network)
    seen: list[Tensor] = []
    assert network.denoiser is not None
    network.denoiser.last.register_forward_hook(lambda _module, given, _out: seen.append(given[0]))
    with evaluation_mode(network):
        first, *moments = predictor.path(batch.image)  # type: ignore[union-attr]
    assert first.feature is None
    assert [moment.left for moment in (first, *moments)] == list(range(QUICK.steps, -1, -1))
    for moment, made in zip(moments, seen, strict=True):
        assert moment.feature is not None
        assert torch.equal(moment.feature.flatten(0, 1), made)


def test_encoders_and_guidance_are_called_once_an_image() -> None:
    network = a_network()
    assert network.guidance is not None
    calls: list[str] = []
    for name, module in (
        ("image", network.encoder),
        ("whole", network.guidance.whole_encoder),
        ("local", network.guidance.local_encoder),
    ):
        module.register_forward_hook(lambda _m, _i, _o, name=name: calls.append(name))
    QUICK.predictor(network)(images())
    assert sorted(calls) == ["image", "local", "whole"]


def test_an_image_has_one_answer_whatever_its_name_or_its_batch() -> None:
    predict = QUICK.predictor(a_network())
    batch = images(4)
    whole = predict(batch)
    order = torch.tensor([2, 0, 3, 1])
    turned = predict(replace(batch, image=batch.image[order], cases=("x", "y", "z", "w")))
    for key, value in whole.items():
        torch.testing.assert_close(turned[key], value[order], rtol=1e-5, atol=1e-6)  # type: ignore[index]
    other = predict(replace(batch, image=batch.image + 1e-3))
    assert not torch.allclose(other["spread"], whole["spread"], rtol=1e-3)  # type: ignore[arg-type]


def test_guidance_alone_answers_as_the_network() -> None:
    recipe = replace(QUICK, diffusion=False, mmd=0.0)
    network = a_network(recipe)
    assert network.denoiser is None
    found = recipe.predictor(network)(images())
    with evaluation_mode(network):
        assert torch.equal(found["label"], network(images().image)["label"])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("prior", "guidance", "inputs"), [("sum", True, 9), ("mean_softmax", True, 6), ("sum", False, 3)]
)
def test_the_denoiser_takes_as_many_vectors_as_there_are_priors(prior: Any, guidance: bool, inputs: int) -> None:
    network = a_network(replace(QUICK, prior=prior, guidance=guidance, mmd=0.5 * guidance))
    assert network.denoiser is not None
    assert network.denoiser.layers[0].in_features == inputs
