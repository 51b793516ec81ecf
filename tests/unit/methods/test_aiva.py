"""AIVA: what is clustered and when, what the report is given, and inputs that are too few, too many
or wrong."""

from __future__ import annotations

import weakref
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import sklearn.cluster
import sklearn.decomposition
import sklearn.manifold
import torch
from tests.contract.world import run, session_of, write_cohort
from tests.unit.tiny import a_context, read, write_photographs, write_volumes
from torch import nn

from allograft.cohort import Slices
from allograft.context import Budget, Store
from allograft.context.journal import Journal
from allograft.errors import SpecError
from allograft.figure import Images, Points
from allograft.methods import aiva
from allograft.methods.aiva import PAIRS, Aiva, match_clusters, nearest, show_examples, spans
from allograft.methods.start import Start
from allograft.networks import Wrapped, build
from allograft.parts import clustering
from allograft.parts.clustering import (
    Clusters,
    DomainItem,
    DomainItems,
    cluster,
    embed,
    features_of,
    name_of,
    nearest_mean,
    positions,
)
from allograft.parts.paired_batches import PairedBatches, halves, last_feature
from allograft.parts.thumbnails import subject_of, thumbnail
from allograft.recipe import Scenario
from allograft.study.plan import scenario_of
from allograft.tree import digest

CONTRACT = {
    "options": {"clusters": 1, "rounds": 3, "weight": 0.5, "variant": "released"},
    # t-SNE makes much of the rounding of what was trained before
    "processes": {"first": "start", "rounds": 1},
}


def _features(count: int, width: int = 12, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def _scenario(folder: Path, source: int = 5, target: int = 4) -> Scenario:
    cohort = read(write_photographs(folder, {"a": source, "b": target}))
    return Scenario((cohort.site("a"),), (cohort.site("b").unlabelled(),), sites=("a", "b"))


@pytest.mark.parametrize(
    ("source", "target", "wanted", "k"), [(5, 4, 12, 4), (1, 1, 12, 1), (6, 1, 3, 1), (9, 8, 3, 3), (2, 9, 1, 1)]
)
def test_too_few_images_make_fewer_clusters(source: int, target: int, wanted: int, k: int) -> None:
    found = cluster(_features(source), _features(target, seed=1), wanted, seed=0)
    assert found.points.shape == (source + target, 2)
    assert found.points.isfinite().all()
    assert found.match.tolist() == match_clusters(found.source_centres, found.target_centres).tolist()
    assert sorted(found.match.tolist()) == list(range(k))
    assert set(found.source.tolist()) == set(found.target.tolist()) == set(range(k))


def test_images_that_are_all_the_same_are_one_cluster() -> None:
    found = cluster(torch.ones(6, 8), torch.ones(3, 8), 12, seed=0, others=[torch.ones(1, 8)] * 2)
    assert found.match.tolist() == [0]
    assert found.target.tolist() == [0] * 5
    assert torch.equal(found.source_means, torch.ones(1, 8))


def test_a_round_is_the_same_each_time() -> None:
    source, target = _features(20), _features(15, seed=1)
    before = source.clone()
    first = cluster(source, target, 3, seed=5)
    again = cluster(source, target, 3, seed=5)
    assert torch.equal(source, before)
    assert all(torch.equal(getattr(first, name), getattr(again, name)) for name in vars(first))


@pytest.mark.parametrize("count", [60, 600])
def test_tsne_runs_all_its_iterations_at_the_defaults_of_scikit_learn(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    real = sklearn.manifold.TSNE
    monkeypatch.setattr(sklearn.manifold, "TSNE", lambda **told: made.append(real(**told)) or made[-1])
    values = np.random.default_rng(0).normal(size=(count, 5)).astype(np.float32)
    embed(values, 3)
    (tsne,) = made
    # the number of the last one; few points may reach the end of all progress before
    assert tsne.n_iter_ == 999 if count == 600 else 250 < tsne.n_iter_ <= 999
    defaults = real().get_params()
    assert {key for key, value in tsne.get_params().items() if value is not defaults[key]} <= {
        "n_jobs",
        "perplexity",
        "random_state",
    }
    assert tsne.perplexity == pytest.approx(min(30, (count - 1) / 3))
    assert tsne.random_state == 3
    assert tsne.init == "pca"


def test_every_draw_of_a_round_is_of_its_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    for module, name in ((sklearn.cluster, "KMeans"), (sklearn.decomposition, "PCA")):
        real = getattr(module, name)
        told = lambda *sizes, real=real, **given: drawn.append(given["random_state"]) or real(*sizes, **given)  # noqa: E731
        monkeypatch.setattr(module, name, told)
    monkeypatch.setattr(clustering, "embed", lambda values, seed: drawn.append(seed) or values[:, :2])
    cluster(_features(6), _features(5, seed=1), 2, seed=7)
    assert drawn == [7] * 4


def test_images_of_one_feature_are_embedded_too() -> None:
    found = cluster(_features(6, 1), _features(5, 1, seed=1), 2, seed=0)
    assert found.points.shape == (11, 2)
    assert found.points.isfinite().all()


def test_the_released_variant_sees_the_position_and_starts_from_the_sources_centres(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shapes: list[tuple[int, ...]] = []
    monkeypatch.setattr(clustering, "embed", lambda values, seed: shapes.append(values.shape) or embed(values, seed))
    position = torch.linspace(0, 0.9, 50)
    starts: list[Any] = []
    real = sklearn.cluster.KMeans
    monkeypatch.setattr(sklearn.cluster, "KMeans", lambda k, **told: starts.append(told.get("init")) or real(k, **told))
    released = cluster(_features(30, 40), _features(20, 40, seed=1), 3, seed=0, position=position)
    cluster(_features(30, 40), _features(20, 40, seed=1), 3, seed=0)
    assert shapes == [(50, 21), (50, 20)]
    assert [start is None for start in starts] == [True, False, True, True]
    np.testing.assert_array_equal(starts[1], released.source_centres.float())


def test_where_a_slice_stands(tmp_path: Path) -> None:
    cohort = read(write_volumes(tmp_path, [(4, 4, 5), (4, 4, 2)]), slices=Slices(axis=2))
    found = positions([DomainItem(cohort, i) for i in range(7)])
    torch.testing.assert_close(found, torch.tensor([0.0, 0.2, 0.4, 0.6, 0.8, 0.0, 0.5]))
    assert [name_of(DomainItem(cohort, i)) for i in range(7)] == [cohort.case(i).cases[0] for i in range(7)]
    whole = read(tmp_path / "manifest.csv")
    assert name_of(DomainItem(whole, 1)) == whole.case(1).cases[0]
    assert positions([DomainItem(whole, 1)]).tolist() == [0.0]


@pytest.mark.parametrize(
    ("source", "target", "most", "kept"), [(5, 4, 9, (5, 4)), (5, 4, 6, (3, 3)), (2, 7, 6, (2, 4)), (7, 2, 6, (4, 2))]
)
def test_too_many_images_are_drawn(source: int, target: int, most: int, kept: tuple[int, int], tmp_path: Path) -> None:
    scenario = _scenario(tmp_path, source, target)
    sides = DomainItems.from_scenario(scenario, a_context(), most)
    assert (len(sides.source), len(sides.target)) == kept
    assert (sides.of_source, sides.total) == (source, source + target)
    assert all(list(part) == sorted(part, key=lambda item: item.index) for part in (sides.source, sides.target))
    assert len({name_of(place) for place in sides.source}) == kept[0]
    assert len({name_of(place) for place in (*sides.target, *sides.others)}) == target


def test_the_rest_joins_the_nearest_mean() -> None:
    members = np.array([[0.0, 0.0], [2.0, 0.0], [9.0, 9.0]])
    found = nearest_mean(np.array([[1.2, 0.0], [8.0, 8.0]]), members, np.array([4, 4, 2]))
    assert found.tolist() == [4, 2]


def test_the_rest_in_batches_is_the_rest_at_once() -> None:
    source, target, others = _features(20), _features(15, seed=1), _features(31, seed=2)
    whole = cluster(source, target, 3, seed=0, others=[others])
    parts = cluster(source, target, 3, seed=0, others=iter(others.split(4)))
    assert len(whole.target) == 46
    assert all(torch.equal(getattr(whole, name), getattr(parts, name)) for name in vars(whole))


def test_no_more_features_than_the_samples_and_two_batches_are_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = {"build": {"unet": {"in_channels": 1, "outputs": {"mask": 2}, "channels": [4, 8]}}}
    scenario, alive, most = _scenario(tmp_path, 3, 25), weakref.WeakSet[torch.Tensor](), [0, 0]

    def watched(features: Any) -> torch.Tensor:
        held = last_feature(features)
        alive.add(held)
        most[:] = most[0] + len(held), max(most[1], sum(map(len, alive)))
        return held

    monkeypatch.setattr(clustering, "last_feature", watched)
    context = a_context(tmp_path / "unit")
    sides = DomainItems.from_scenario(scenario, context, 6)
    assert len(sides.others) == 22
    found = Aiva(clusters=2).clustered(build(spec), sides, context, "clusters-0")
    assert len(found.target) == 25
    assert most[0] == 28  # each image once
    assert most[1] <= 2 * context.batch_size  # the last, while the next is made


def test_features_are_those_of_the_encoder_in_evaluation_mode_and_labels_are_not_there(tmp_path: Path) -> None:
    torch.manual_seed(0)
    spec = {"build": {"unet": {"in_channels": 1, "outputs": {"mask": 2}, "channels": [4, 8], "norm": "batch"}}}
    network, scenario = build(spec).train(), _scenario(tmp_path)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    places = DomainItems.from_scenario(scenario, a_context()).target
    found = torch.cat(list(features_of(network, places, a_context())))
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert network.training
    network.eval()
    image = scenario.target[0].case(2).image
    torch.testing.assert_close(found[2], network.encoder(image)[-1].detach().flatten(), rtol=1e-4, atol=1e-5)


def test_on_crops_the_points_are_those_that_cover_an_image_and_batches_are_made_of_them(tmp_path: Path) -> None:
    """16 x 16 pixels in crops of 8 x 8 are four of each image; crops of 6 x 16 are three."""
    scenario, context = _scenario(tmp_path, 5, 3), a_context(patch=(8, 8))
    sides = DomainItems.from_scenario(scenario, context)
    assert (len(sides.source), len(sides.target), sides.of_source, sides.total) == (20, 12, 20, 32)
    assert [item.image for item in sides.target] == [(scenario.target[0], i // 4) for i in range(12)]
    torch.manual_seed(0)
    network = build(
        {"build": {"unet": {"in_channels": 1, "outputs": {"mask": 2}, "channels": [4, 8], "norm": "batch"}}}
    ).eval()
    found = torch.cat(list(features_of(network, sides.target, context)))
    image = scenario.target[0].case(1).image
    whole = image.unfold(2, 8, 8).unfold(3, 8, 8).movedim((2, 3), (0, 1)).flatten(0, 2)
    torch.testing.assert_close(found[4:8], network.encoder(whole)[-1].detach().flatten(1), rtol=1e-4, atol=1e-5)
    pairs, names, crops = aiva.paired_batches(scenario, context), {name_of(place) for place in sides.target}, {}
    for batch in (halves(next(pairs(step)))[1] for step in range(60)):
        crops.update(zip(batch.cases, batch.image, strict=True))
    assert set(crops) == names  # every crop comes, and no other
    tile = [name_of(place) for place in sides.target].index("b1.png@2")
    assert torch.equal(crops["b1.png@2"], whole[tile - 4])
    assert len(DomainItems.from_scenario(scenario, a_context(patch=(6, 16))).target) == 9
    assert len(DomainItems.from_scenario(scenario, a_context(patch=(20, 20))).target) == 3


@pytest.mark.parametrize(("budget", "rounds"), [({"adapt_steps": 9}, 3), ({"adapt_steps": 8, "steps_per_epoch": 2}, 4)])
def test_an_epoch_is_a_pass_over_the_crops_of_the_source(
    budget: dict[str, int], rounds: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two images of 16 x 16 in the source make eight crops of 8 x 8: four steps of two."""
    sizes: list[tuple[int, ...]] = []
    seen: set[int] = set()
    real = aiva.alignment_loss
    monkeypatch.setattr(
        aiva, "cluster", lambda a, b, k, **more: sizes.append((len(a), len(b))) or cluster(a, b, k, **more)
    )
    monkeypatch.setattr(aiva, "alignment_loss", lambda f, c, *more: seen.update(c.tolist()) or real(f, c, *more))
    context = a_context(tmp_path / "units", patch=(8, 8), budget=Budget(steps=1, batch_size=2, **budget))  # type: ignore[arg-type]
    torch.manual_seed(0)
    network = build({"build": {"unet": {"in_channels": 1, "outputs": {"mask": 2}, "channels": [4, 8]}}})
    recipe, scenario = Aiva(clusters=2, first=Start()), _scenario(tmp_path / "cohort", 2, 3)
    list(context.run(recipe, scenario, network))
    assert seen == {0, 1}  # no crop of a batch is without a cluster
    assert sizes == [(8, 12)] * (rounds + 1)
    figures: Any = Store(tmp_path / "units" / context.unit(recipe, scenario, network)).figures()
    assert figures["clusters-before"].title.startswith("crops before")
    assert "images with the crops nearest" in figures["matched-1"].title
    assert len(figures["clusters-before"].x) == 20


def test_pairs_hold_as_many_target_images_as_source_cases(tmp_path: Path) -> None:
    pairs = PairedBatches.from_scenario(_scenario(tmp_path), a_context())
    stream = pairs(0)
    for _ in range(3):
        source, target = halves(next(stream))
        assert len(source) == len(target) == 2
        assert all(name.startswith("a") for name in source.cases)
        assert all(name.startswith("b") for name in target.cases)
        assert (source.labels["mask"] >= 0).all()
        assert target.labels == {}
    fourth = next(stream)
    assert next(PairedBatches.from_scenario(_scenario(tmp_path), a_context())(3)).cases == fourth.cases


def test_rounds() -> None:
    assert spans(6, 2, None) == [range(0, 2), range(2, 4), range(4, 6)]
    assert spans(3, 9, None) == [range(0, 3)]
    assert [len(span) for span in spans(10, 3, 4)] == [2, 3, 2, 3]
    assert spans(2, 1, 5) == [range(0, 1), range(1, 2)]


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_a_run_clusters_once_a_round_and_shows_both_ends(
    variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[int, int]] = []

    def counted(source: Any, target: Any, *arguments: Any, **options: Any) -> Any:
        calls.append((len(source), len(target)))
        return cluster(source, target, *arguments, **options)

    monkeypatch.setattr(aiva, "cluster", counted)
    recipe = {"aiva": {"rounds": 2, "clusters": 2, "variant": variant, "first": "start"}}
    session = session_of(write_cohort(tmp_path / "cohort"), tmp_path / "out", recipe)
    world, row, records = run(session)
    assert all(record.status == "done" for record in records.values())
    assert len(calls) == 3  # two rounds, and the end
    assert len(set(calls)) == 1
    figures = Store(tmp_path / "out" / "units" / row.unit).figures()
    ends = {f"{kind}-{when}" for kind in ("clusters", "centres") for when in ("before", "after")}
    assert set(figures) == {"loss-adapt", *ends, "matched-1", "matched-2"}
    centres: Any = figures["centres-before"]
    assert centres.group == ("source", "source", "target", "target")
    assert centres.colour[:2] == (0, 1)
    assert sorted(centres.colour[2:]) == [0, 1]
    images: Any = figures["clusters-before"]
    assert len(images.x) == len(images.group) == len(images.colour)
    assert "drawn" not in images.title
    for name in ("source", "target"):  # an image has the colour of its centre
        for x, y, group, colour in zip(images.x, images.y, images.group, images.colour, strict=True):
            if group == name:
                near = min(
                    (i for i in range(4) if centres.group[i] == name),
                    key=lambda i: (centres.x[i] - x) ** 2 + (centres.y[i] - y) ** 2,
                )
                assert centres.colour[near] == colour
    loss: Any = figures["loss-adapt"]
    assert len(loss.y["alignment"]) == 3
    shown = [figures[f"matched-{rank}"] for rank in (1, 2)]
    for figure in shown:
        assert isinstance(figure, Images)
        pair = int(figure.title.split(":")[0].removeprefix("cluster "))
        inside = [
            sum(dot == (side, pair) for dot in zip(images.group, images.colour, strict=True))
            for side in ("source", "target")
        ]
        assert list(figure.names) == [
            f"{side}, {count} in the cluster" for side, count in zip(("source", "target"), inside, strict=True)
        ]
        assert list(map(len, figure.rows)) == inside
    training = {subject for subject, one in world.assignments.items() if one.split == "train"}
    assert {subject for figure in shown for row in figure.subjects for subject in row} <= training  # type: ignore[union-attr]


def test_the_middle_comes_first_and_every_subject_before_a_second_of_any(tmp_path: Path) -> None:
    # 0 to 2 are of the first subject
    cohort = read(write_photographs(tmp_path, {"a": 3}, per_subject=3))
    x, inside = torch.tensor([0.0, 1.0, 5.0, -2.0, -4.0, 90.0]), torch.tensor([True] * 5 + [False])
    images = [(cohort, index) for index in (0, 1, 2, 4, 7, 3)]
    points = torch.stack([x, torch.zeros(6)], dim=1)
    assert [index for _, index in nearest(images, points, inside)] == [
        0,
        4,
        7,
        1,
    ]  # the middle is 0; number 2 is one too many
    assert [index for _, index in nearest(images, points, ~inside)] == [3]
    crops = [(cohort, index) for index in (0, 0, 2, 0, 2, 3)]
    assert [index for _, index in nearest(crops, points, inside)] == [
        0,
        2,
    ]  # an image comes once, however many crops are inside


def test_the_largest_pairs_are_shown_with_the_images_of_either_side(tmp_path: Path) -> None:
    scenario, context = _scenario(tmp_path, 11, 7), a_context()
    items = DomainItems.from_scenario(scenario, context)
    sizes, match = [1, 3, 2, 1, 4], torch.tensor([2, 0, 1, 4, 3])
    own = torch.arange(5).repeat_interleave(torch.tensor(sizes))
    target = torch.tensor([0, 0, 1, 2, 3, 4, 4])  # of the pairs 2, 2, 0, 1, 4, 3, 3
    points = torch.randn(18, 2, generator=torch.Generator().manual_seed(0))
    show_examples(
        Clusters(points, own, target, torch.zeros(5, 2), torch.zeros(5, 2), torch.zeros(5, 8), match), items, context
    )
    shown: list[Any] = [context.meter.figures[f"matched-{rank}"] for rank in range(1, PAIRS + 1)]
    assert len(context.meter.figures) == PAIRS
    assert [figure.title.split(":")[0] for figure in shown] == ["cluster 4", "cluster 1", "cluster 2", "cluster 3"]
    assert [figure.names[1].split()[1] for figure in shown] == ["1", "1", "2", "2"]
    for figure, pair in zip(shown, (4, 1, 2, 3), strict=True):
        inside = [[item.image for item, one in zip(items.source, own.tolist(), strict=True) if one == pair]]
        inside += [[item.image for item, one in zip(items.target, match[target].tolist(), strict=True) if one == pair]]
        expected = Images.from_arrays("i", [[thumbnail(image) for image in row] for row in inside])
        assert list(map(sorted, figure.rows)) == list(map(sorted, expected.rows))
        assert list(map(sorted, figure.subjects)) == [sorted(map(subject_of, row)) for row in inside]


def _ran(folder: Path, scenario: Scenario) -> tuple[Path, Any]:
    """The unit's folder and its carry."""
    torch.manual_seed(0)
    network = build({"build": {"unet": {"in_channels": 1, "outputs": {"mask": 2}, "channels": [4, 8]}}})
    context, recipe = a_context(folder), Aiva(clusters=2, rounds=2, first=Start())
    running = context.run(recipe, scenario, network)
    while True:
        try:
            next(running)
        except StopIteration as stop:
            return folder / context.unit(recipe, scenario, network), stop.value


def test_what_is_shown_changes_nothing_and_is_the_same_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario = _scenario(tmp_path / "cohort")
    whole, carry = _ran(tmp_path / "whole", scenario)
    told = (whole / "figures.json").read_bytes()
    _ran(tmp_path / "whole", scenario)  # loaded
    assert (whole / "figures.json").read_bytes() == told
    with monkeypatch.context() as patched:
        patched.setattr(aiva, "show_examples", lambda *given: None)
        bare, other = _ran(tmp_path / "bare", scenario)
    assert "matched-1" not in Store(bare).figures()
    assert digest(other.network) == digest(carry.network)

    monkeypatch.setattr(Journal, "due", lambda self: True)
    real, calls = aiva.AlignmentObjective.__call__, []

    def dying(self: Any, network: Any, batch: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(self, network, batch)

    monkeypatch.setattr(aiva.AlignmentObjective, "__call__", dying)
    with pytest.raises(KeyboardInterrupt):
        _ran(tmp_path / "killed", scenario)
    again, _ = _ran(tmp_path / "killed", scenario)
    assert len(calls) == 4  # three steps, and the one that was killed
    assert (again / "figures.json").read_bytes() == told


def test_a_rehearsal_clusters_once_and_tells_the_time_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock that moves by one second a look: each step takes one, and each clustering."""
    calls: list[int] = []
    monkeypatch.setattr(aiva, "cluster", lambda *each, **more: calls.append(1) or cluster(*each, **more))
    session = session_of(
        write_cohort(tmp_path / "cohort"),
        tmp_path / "out",
        {"aiva": {"rounds": 20, "clusters": 2, "first": "start"}},
        budget={"steps": 3, "adapt_steps": 80, "batch_size": 2},
    )
    world = session.prepare()
    row = next(row for row in session.plan(world).rows if row.recipe == session.study.recipes[0])
    meters: dict[str, Any] = {}
    context = replace(session.context(0), folder=None, rehearsal=meters, progress=False)
    ticks = count()
    monkeypatch.setattr("time.perf_counter", lambda: float(next(ticks)))
    list(context.run(row.recipe, scenario_of(world, row), session.start(world, 0)))
    assert len(calls) == 1
    assert meters[row.unit].planned_steps == 80
    assert meters[row.unit].planned_seconds == 80 + 21  # 20 rounds, and the end


def test_what_was_drawn_or_reduced_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = DomainItems.from_scenario
    monkeypatch.setattr(
        DomainItems, "from_scenario", staticmethod(lambda scenario, context: real(scenario, context, 3))
    )
    session = session_of(write_cohort(tmp_path / "cohort"), tmp_path / "out", {"aiva": {"rounds": 1, "first": "start"}})
    _, row, records = run(session)
    assert all(record.status == "done" for record in records.values())
    title = Store(tmp_path / "out" / "units" / row.unit).figures()["clusters-before"].title
    assert "3 of 12 images" in title
    assert "drawn at random" in title
    assert "1 clusters, not 12" in title


@pytest.mark.parametrize(
    ("total", "wanted", "kind", "said"),
    [
        (7, 3, "images", "images after the adaptation, matched clusters alike"),
        (9, 5, "crops", "; 7 of 9 crops, drawn at random; 3 clusters, not 5: a side has no more crops that differ"),
    ],
)
def test_matched_clusters_have_the_colour_of_the_source_cluster(total: int, wanted: int, kind: str, said: str) -> None:
    """Three clusters that are matched in a circle; four source and three target images were seen, two not."""
    context, match = a_context(), torch.tensor([1, 2, 0])
    points, centres = torch.arange(14.0).view(7, 2), torch.arange(20.0, 32).view(6, 2)
    clusters = Clusters(
        points, torch.tensor([0, 1, 2, 0]), torch.tensor([0, 2, 1, 0, 0]), centres[:3], centres[3:], points, match
    )
    items = SimpleNamespace(source=range(4), target=range(3), total=total, kind=kind)
    clustering.show(clusters, items, context, wanted, "after")  # type: ignore[arg-type]
    dots, middles = (context.meter.figures[f"{name}-after"] for name in ("clusters", "centres"))
    assert isinstance(dots, Points)
    assert isinstance(middles, Points)
    assert dots.title.endswith(said)
    assert (dots.x, dots.y) == (tuple(range(0, 14, 2)), tuple(range(1, 14, 2)))
    assert dots.group == ("source",) * 4 + ("target",) * 3
    assert dots.colour == (0, 1, 2, 0, 1, 0, 2)
    assert middles.group == ("source",) * 3 + ("target",) * 3
    assert middles.colour == (0, 1, 2, 1, 2, 0)
    assert middles.x == tuple(range(20, 32, 2))


def test_a_batch_of_one(tmp_path: Path) -> None:
    budget = {"steps": 1, "adapt_steps": 2, "batch_size": 1}
    session = session_of(
        write_cohort(tmp_path / "cohort"), tmp_path / "out", {"aiva": {"rounds": 1, "first": "start"}}, budget=budget
    )
    _, _, records = run(session)
    assert all(record.status == "done" for record in records.values())


def test_wrong_inputs_are_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"\(2, 2\) and \(3, 2\)"):
        match_clusters(torch.zeros(2, 2), torch.zeros(3, 2))
    with pytest.raises(SpecError, match="finite"):
        match_clusters(torch.zeros(2, 2), torch.full((2, 2), float("nan")))
    opaque = Wrapped(nn.Conv2d(3, 2, 1), "mask")
    with pytest.raises(SpecError, match="aiva: the network is one opaque module"):
        next(Aiva().run(_scenario(tmp_path), opaque, a_context()))


def test_clusters_go_to_the_images_that_they_are_of(tmp_path: Path) -> None:
    items = DomainItems.from_scenario(_scenario(tmp_path), a_context())
    count = len(items.target) + len(items.others)
    clusters = SimpleNamespace(target=torch.arange(count), source_means=torch.zeros(2, 3), match=torch.arange(2))
    objective = SimpleNamespace()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aiva, "replace", lambda made, **changes: (made, changes))
        aiva.use_clusters(objective, clusters, items, "cpu")  # type: ignore[arg-type]
    names = [name_of(item) for item in (*items.target, *items.others)]
    assert objective.cluster_of == {name: number for number, name in enumerate(names)}
    assert objective.clusters[0] is clusters
