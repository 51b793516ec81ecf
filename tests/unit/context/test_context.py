"""Units: keyed by content, shared where the content is the same, and by nothing else."""

from __future__ import annotations

import csv
from collections.abc import Generator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from PIL import Image
from tests.unit.context.test_lock import held_by
from tests.unit.tiny import a_context, read, write_photographs, write_rows

from allograft import table
from allograft.cohort import Cohort
from allograft.context import Budget, Context, Store
from allograft.errors import AllograftError, LeaseLost, NeedsError, SpecError
from allograft.methods.adabn import AdaBn
from allograft.methods.finetune import Finetune
from allograft.methods.joint import Joint
from allograft.methods.supervised import Supervised
from allograft.methods.target_supervised import TargetSupervised
from allograft.networks import build
from allograft.predictor import Direct
from allograft.recipe import AnyRecipe, Carry, Needs, Scenario, Stage, total_needs
from allograft.recipe.needs import check_needs
from allograft.seeds import Seeds
from allograft.tree import digest


@dataclass(frozen=True)
class Twice:
    """Yields one stage name twice."""

    first: AnyRecipe = field(default_factory=Supervised)
    paper: ClassVar[None] = None
    needs: ClassVar[Needs] = Needs()

    def run(self, scenario: Scenario, network: Any, context: Context) -> Generator[Stage, None, Carry]:
        """No training."""
        yield Stage("same")
        yield Stage("same")
        return Carry(network)


@dataclass(frozen=True)
class Drawing:
    """Draws outside ``train``, and touches what it is given."""

    paper: ClassVar[None] = None
    needs: ClassVar[Needs] = Needs()

    def run(self, scenario: Scenario, network: Any, context: Context) -> Generator[Stage, None, Carry]:
        """Adds noise to every weight, twice."""
        for name in ("one", "two"):
            for p in network.parameters():
                p.data += torch.randn(p.shape)
            yield Stage(name, Direct(network))
        return Carry(network)


@dataclass(frozen=True)
class Noisy:
    """Adds noise to every weight of what comes before, twice."""

    number: int
    first: AnyRecipe | None = None
    paper: ClassVar[None] = None
    needs: ClassVar[Needs] = Needs()

    def run(self, scenario: Scenario, network: Any, context: Context) -> Generator[Stage, None, Carry]:
        """Draws outside ``train``, before and after a stage."""
        if self.first is not None:
            network = (yield from context.run(self.first, scenario, network)).network
        for name in ("one", "two"):
            for p in network.parameters():
                p.data += torch.randn(p.shape)
            yield Stage(name, Direct(network))
        return Carry(network)


@pytest.fixture(autouse=True)
def named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(table.METHODS, "twice", f"{Twice.__module__}:Twice")
    monkeypatch.setitem(table.METHODS, "noisy", f"{Noisy.__module__}:Noisy")
    monkeypatch.setitem(table.METHODS, "drawing", f"{Drawing.__module__}:Drawing")
    real = table.find
    own = {"twice": Twice, "drawing": Drawing}
    monkeypatch.setattr(table, "find", lambda kind, name: own.get(name) or real(kind, name))


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photographs(tmp_path_factory.mktemp("cohort"), {"a": 3, "b": 3, "c": 2}, (16, 16))


def cut(manifest: Path, *, target: str = "b", labelled: int = 2, sites: tuple[str, ...] = ("a", "b", "c")) -> Scenario:
    cohort = replace(read(manifest), sites=sites)
    here = cohort.site(target)
    subjects = here.subjects
    parts = (here.of(subjects[:labelled]), here.of(subjects[labelled:]).unlabelled())
    return Scenario((cohort.site("a"),), tuple(part for part in parts if part.cases), sites=sites)


def a_network(seed: int = 0) -> Any:
    with Seeds(seed).everything():
        return build(
            {"build": {"unet": {"in_channels": 1, "outputs": {"mask": 2}, "channels": [2, 4], "num_res_units": 1}}}
        )


def finished(running: Generator[Stage, None, Carry]) -> tuple[list[Stage], Carry]:
    stages = []
    while True:
        try:
            stages.append(next(running))
        except StopIteration as stop:
            return stages, stop.value


# ---------------------------------------------------------- narrowing
def test_narrowed_to_nothing_more_than_needed(manifest: Path) -> None:
    whole = cut(manifest)
    source = whole.narrowed(Needs(source_images=True))
    assert (len(source.source), source.target, source.sites) == (1, (), ("a",))
    images = whole.narrowed(Needs(target_images=True))
    assert images.source == ()
    assert sum(len(cohort) for cohort in images.target) == 3
    assert not any(case.labels for cohort in images.target for case in cohort.cases)
    labels = whole.narrowed(Needs(target_labels=True))
    assert [cohort.subjects for cohort in labels.target] == [("b0", "b1")]
    assert labels.target[0].case(0).site.tolist() == [0]  # sites are numbered anew
    both = whole.narrowed(Needs(target_labels=True, target_images=True))
    assert [cohort.has_labels for cohort in both.target] == [True, False]
    assert whole.narrowed(Needs(source_images=True, target_labels=True)).target[0].case(0).site.tolist() == [1]
    assert whole.narrowed(Needs()) == Scenario()


@pytest.mark.parametrize(
    ("part", "needs"),
    [
        ("source", Needs(source_images=True)),
        ("target", Needs(target_labels=True)),
        ("pool", Needs(pool_labels=True)),
        ("stream", Needs(stream=True)),
    ],
)
def test_boxes_of_further_readers_are_absent_and_change_no_key(part: str, needs: Needs, tmp_path: Path) -> None:
    listed = csv.DictReader(write_photographs(tmp_path, {"a": 2, "b": 3}).read_text().splitlines())
    for name in ("first", "second"):
        (tmp_path / f"{name}.json").write_text('{"boxes": [], "labels": []}')
    keys = ("image", "subject", "site")
    rows = [{**{key: row[key] for key in keys}, "boxes": "first.json"} for row in listed]
    manifests = (
        write_rows(tmp_path / "alone.csv", rows),
        write_rows(tmp_path / "both.csv", [{**row, "boxes_reader2": "second.json"} for row in rows]),
    )
    alone, both = (replace(whole, pool=whole.source, stream=whole.source) for whole in map(cut, manifests))
    seen = both.narrowed(needs)
    (cohort,) = getattr(seen, part)
    assert [set(case.labels) for case in cohort.cases] == [{"boxes"}] * 2
    assert [whole.further_boxes for whole in cohort.wholes()] == [{}, {}]
    assert seen.fingerprint() == alone.narrowed(needs).fingerprint()
    assert all("boxes_reader2" in case.labels for case in both.source[0].cases)  # which the judge keeps


def test_what_needs_no_label_is_the_same_whatever_is_labelled(manifest: Path) -> None:
    budgets = [
        cut(manifest, labelled=count).narrowed(Needs(source_images=True, target_images=True)) for count in (0, 1, 3)
    ]
    assert [len(budget.target) for budget in budgets] == [1, 1, 1]
    assert budgets[0].fingerprint() == budgets[1].fingerprint() == budgets[2].fingerprint()
    whole = cut(manifest, labelled=1)
    by_slices = replace(whole, target=(replace(whole.target[0], chosen=frozenset({("b0.png", 0)})), whole.target[1]))
    assert by_slices.narrowed(Needs(source_images=True, target_images=True)).fingerprint() == budgets[0].fingerprint()


def test_needs_of_nested_recipes_add_up() -> None:
    assert total_needs(Finetune()) == Needs(source_images=True, target_labels=True)
    assert total_needs(Finetune(first=TargetSupervised("all"))) == Needs(target_labels=True, all_target_labels=True)


# ---------------------------------------------------------- keys
def test_the_source_training_is_one_unit_for_all_targets(manifest: Path) -> None:
    context, network = a_context(), a_network()
    b, c = cut(manifest, target="b"), cut(manifest, target="c", labelled=1)
    assert context.unit(Supervised(), b, network) == context.unit(Supervised(), c, network)
    for recipe in (Finetune(), Joint(), TargetSupervised()):
        assert context.unit(recipe, b, network) != context.unit(recipe, c, network)


def test_what_changes_a_key(manifest: Path) -> None:
    scenario, network, recipe = cut(manifest), a_network(), Finetune()
    key = a_context().unit(recipe, scenario, network)
    other = {
        a_context(seed=1).unit(recipe, scenario, network),
        a_context(budget=Budget(steps=4, adapt_steps=3, batch_size=2)).unit(recipe, scenario, network),
        a_context(clip=1.0).unit(recipe, scenario, network),
        a_context(optimizer={"adam": {"lr": 2e-3}}).unit(recipe, scenario, network),
        a_context().unit(recipe, scenario, a_network(1)),
        a_context().unit(Finetune("top"), scenario, network),
        a_context().unit(Finetune(first=Supervised("strong")), scenario, network),
        a_context().unit(recipe, cut(manifest, labelled=1), network),
        replace(a_context(), task=type(a_context().task)(("another",))).unit(recipe, scenario, network),
    }
    assert len(other) == 9
    assert key not in other
    assert a_context().unit(Finetune("full", None, first=Supervised()), cut(manifest), a_network()) == key


def test_a_recipe_without_a_task_is_told_so_where_it_asks_for_one() -> None:
    context = a_context()
    assert context.supervised_task is context.task
    bare = replace(context, task=None)
    for asks in (lambda: bare.supervised_task, lambda: bare.gradient_step(a_network())):
        with pytest.raises(
            AllograftError, match="needs only images for pre-training, so it is given no task; use a loss of its own"
        ):
            asks()
    assert bare.gradient_step(a_network(), lambda network, batch: {}).clip == context.settings.clip


def test_what_does_not_change_a_key(manifest: Path, tmp_path: Path) -> None:
    network = a_network()
    key = {recipe: a_context().unit(recipe, cut(manifest), network) for recipe in (Supervised(), Finetune(), Joint())}
    for recipe, expected in key.items():
        assert (
            a_context().unit(recipe, cut(manifest, sites=("a", "b")), network) == expected
        )  # a site less in the study
        assert a_context(tmp_path, seconds=3.0).unit(recipe, cut(manifest), network) == expected
        assert replace(a_context(), workers=2).unit(recipe, cut(manifest), network) == expected
    assert a_context().unit(Supervised(), cut(manifest, labelled=1), network) == key[Supervised()]


def test_a_hidden_mask_may_change(tmp_path: Path) -> None:
    manifest, network = write_photographs(tmp_path, {"a": 3, "b": 3}), a_network()

    def keys() -> list[str]:
        scenario = cut(manifest, sites=("a", "b"))
        images = Twice()  # needs nothing of its own, so source images only
        return [
            a_context().unit(recipe, scenario, network)
            for recipe in (Supervised(), Finetune(), TargetSupervised(), images)
        ]

    before = keys()
    Image.new("L", (16, 16), 1).save(tmp_path / "b2-mask.png")  # outside the budget of two
    assert keys() == before
    Image.new("L", (16, 16), 1).save(tmp_path / "b1-mask.png")  # inside
    after = keys()
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, False, True]


# ---------------------------------------------------------- running
def test_run_keeps_the_callers_network_and_loads_the_second_time(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = a_network()
    before = digest(network)
    stages, carry = finished(a_context(tmp_path).run(Finetune(), cut(manifest), network))
    assert digest(network) == before != digest(carry.network)
    assert [(stage.name, type(stage.recipe).__name__) for stage in stages] == [
        ("trained", "Supervised"),
        ("tuned", "Finetune"),
    ]
    assert stages[0].unit != stages[1].unit
    assert [stage.sites for stage in stages] == [("a",), ("a", "b")]
    monkeypatch.setattr("allograft.step.GradientStep.__call__", lambda *_: pytest.fail("trained again"))
    again, loaded = finished(a_context(tmp_path).run(Finetune(), cut(manifest), network))
    assert [(stage.name, stage.unit) for stage in again] == [(stages[1].name, stages[1].unit)]
    assert digest(loaded.network) == digest(carry.network)
    assert loaded.optimizer["kind"] == "adam"
    assert set(loaded.optimizer["state"]) == {name for name, _ in network.named_parameters()}
    assert not (tmp_path / stages[1].unit / "journal").exists()


def test_draws_outside_train_are_named_by_content(manifest: Path) -> None:
    def weights(seed: int, noise: int) -> str:
        torch.manual_seed(noise)
        _, carry = finished(a_context(seed=seed).run(Drawing(), cut(manifest), a_network()))
        return digest(carry.network)

    assert weights(0, 1) == weights(0, 2) != weights(1, 1)


def test_a_chain_draws_the_same_whatever_of_it_is_there_already(manifest: Path, tmp_path: Path) -> None:
    first = Noisy(1)
    second = Noisy(2, first)
    chain = Noisy(3, second)
    weights = []
    for number, before in enumerate(([], [first], [second], [first, second])):
        context = a_context(tmp_path / str(number))
        for recipe in (*before, chain):
            _, carry = finished(context.run(recipe, cut(manifest), a_network()))
        weights.append(digest(carry.network))
    assert len(set(weights)) == 1


def test_what_the_judge_draws_between_stages_changes_nothing(manifest: Path) -> None:
    running = a_context().run(Drawing(), cut(manifest), a_network())
    next(running)
    state = torch.get_rng_state()
    torch.rand(3)
    _, carry = finished(running)
    torch.set_rng_state(state)
    _, plain = finished(a_context().run(Drawing(), cut(manifest), a_network()))
    assert digest(carry.network) == digest(plain.network)


def test_a_stage_is_saved_as_it_was_when_it_was_yielded(manifest: Path, tmp_path: Path) -> None:
    batch = read(manifest).case(0).unlabelled()
    seen = {}
    for stage in a_context(tmp_path).run(Drawing(), cut(manifest), a_network()):
        seen[stage.name] = stage.predictor(batch)["mask"].clone()
    found = Store(tmp_path / stage.unit).load()
    assert found is not None
    for kept in found[1]:
        assert torch.equal(kept.predictor(batch)["mask"], seen[kept.name])
    assert not torch.equal(seen["one"], seen["two"])


@pytest.mark.parametrize("damage", ["carry.safetensors", "stages/two/card.json"])
def test_a_damaged_unit_is_run_again_to_the_same_bytes(damage: str, manifest: Path, tmp_path: Path) -> None:
    stages, carry = finished(a_context(tmp_path).run(Drawing(), cut(manifest), a_network()))
    path = tmp_path / stages[0].unit / damage
    if damage.endswith("json"):
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-3])
    assert Store(tmp_path / stages[0].unit).load() is None
    again, second = finished(a_context(tmp_path).run(Drawing(), cut(manifest), a_network()))
    assert len(again) == 2
    assert digest(second.network) == digest(carry.network)
    assert Store(tmp_path / stages[0].unit).load() is not None


@pytest.mark.parametrize("yielded", [1, 2], ids=["before a stage", "before the carry"])
def test_who_was_taken_over_keeps_neither_stage_nor_carry(
    yielded: int, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("allograft.context.lock._sleep", lambda: None)
    running = a_context(tmp_path).run(Drawing(), cut(manifest), a_network())
    for _ in range(yielded):
        next(running)
    (lock,) = tmp_path.rglob("lock")
    lock.unlink()
    held_by(lock, host="another")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(LeaseLost):
        next(running)
    assert sorted(tmp_path.rglob("*")) == before
    assert not list(tmp_path.rglob("carry.safetensors"))
    assert "token=another" in lock.read_text()


def test_a_stage_yielded_twice(manifest: Path) -> None:
    with pytest.raises(AllograftError, match="twice: stage 'same' was yielded twice"):
        finished(a_context().run(Twice(), cut(manifest), a_network()))


@pytest.mark.parametrize(
    ("recipe", "lacking", "told"),
    [
        (Supervised(), {"source": ()}, "recipe 'supervised' needs source images.*source:"),
        (Finetune(), {"target": ()}, r"recipe 'finetune' needs labelled target cases.*target_labels: \{subjects: n\}"),
        (Finetune(), {"source": ()}, "recipe 'finetune' needs source images"),
        (TargetSupervised("all"), {"target": ()}, "recipe 'target_supervised labels=all' needs labelled target cases"),
    ],
)
def test_needs_that_are_not_met(recipe: Any, lacking: dict[str, tuple[Cohort, ...]], told: str, manifest: Path) -> None:
    with pytest.raises(NeedsError, match=told):
        check_needs(recipe, replace(cut(manifest), **lacking))
    with pytest.raises(NeedsError):
        finished(a_context().run(recipe, replace(cut(manifest), **lacking), a_network()))


def test_the_target_that_lacks_them_is_named(manifest: Path) -> None:
    with pytest.raises(
        NeedsError, match=r"'adabn' needs target images, and target 'b' has none outside its test cases; .*lower test: "
    ):
        check_needs(AdaBn(), replace(cut(manifest), target=()), "b")


def test_unlabelled_target_images_do_not_meet_a_need_of_labels(manifest: Path) -> None:
    with pytest.raises(NeedsError, match="labelled target cases"):
        check_needs(Finetune(), cut(manifest, labelled=0))
    check_needs(Supervised(), cut(manifest, labelled=0))


@pytest.mark.parametrize("arguments", [{"lrr": 1}, {"lr": -1}, {"lr": "fast"}])
def test_wrong_arguments_of_an_optimizer(arguments: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=r"optimizer[.:] ?adam"):
        a_context(optimizer={"adam": arguments}).optimizer(a_network().parameters())


def test_epochs_or_steps() -> None:
    steps, epochs = Budget(steps=7, adapt_steps=3), Budget(epochs=4, adapt_epochs=2)
    assert (steps.training(10), steps.adaptation(10), epochs.training(10), epochs.adaptation(10)) == (7, 3, 40, 20)
    for name in ("steps", "adapt_steps", "epochs", "adapt_epochs", "batch_size", "steps_per_epoch"):
        with pytest.raises(SpecError, match=f"budget.{name}: found 0, expected at least 1"):
            Budget(**{name: 0})


def test_what_is_computed_once_stays_as_it_was() -> None:
    """Also where it was taken from weights that train on."""
    network = build({"build": {"unet": {"in_channels": 1, "outputs": {"mask": 2}, "channels": [2, 4]}}})
    kept = a_context().once("weights", lambda: dict(network.state_dict()))
    before = {key: value.clone() for key, value in kept.items()}
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(1.0)
    assert all(torch.equal(kept[key], before[key]) for key in before)


def test_an_error_of_the_first_process_reaches_the_others() -> None:
    """They would wait for its result for ever."""
    said: list[Any] = []

    class First:
        world_size, is_global_zero = 2, True

        def broadcast(self, value: Any) -> Any:
            said.append(value)
            return value

    class Second(First):
        is_global_zero = False

        def broadcast(self, value: Any) -> Any:
            return said[-1]

    for error, kind in ((SpecError("no"), SpecError), (ZeroDivisionError("by 0"), RuntimeError)):

        def fail(error: Exception = error) -> None:
            raise error

        for process in (First(), Second()):
            with pytest.raises(kind, match=r"no|ZeroDivisionError: by 0"):
                replace(a_context(), fabric=process).once("x", fail)  # type: ignore[arg-type]
