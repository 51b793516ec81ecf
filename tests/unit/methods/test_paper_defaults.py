"""Every default that a method's paper states, and where it states it. What a paper leaves open, or
where the default is that of released code, is said in the recipe's docstring instead."""

from __future__ import annotations

from dataclasses import fields

import pytest

from allograft.table import find

STATED: tuple[tuple[str, dict[str, object], str], ...] = (
    ("adaptsegnet", {"levels": 2, "adversarial": 0.001}, "Tsai et al. 2018, section 5: lambda_adv of the last level"),
    ("adaptsegnet", {"auxiliary_adversarial": 0.0002, "auxiliary_segmentation": 0.1}, "Tsai et al. 2018, section 5"),
    ("aiva", {"clusters": 12}, "Goodman et al. 2022, implementation details"),
    ("aiva", {"weight": None}, "Goodman et al. 2022: the reciprocal of the first values' mean"),
    ("barlow_twins", {"balance": 0.005}, "Zbontar et al. 2021, implementation details"),
    ("cyclegan", {"cycle": 10.0}, "Zhu et al. 2017, section 4"),
    ("diffmic", {"crops": 6, "crop_size": 32}, "Yang et al. 2023, implementation details: six 32 x 32 patches"),
    ("diffmic", {"mmd": 0.5, "width": 6144, "warmup": 10}, "Yang et al. 2023, section 2.3 and training details"),
    ("diffmic", {"steps": 100}, "Yang et al. 2023, implementation details: T of PMG2000"),
    ("diffmic", {"guidance_rate": 0.2}, "Yang et al. 2023, implementation details: 2e-4 against 1e-3"),
    ("diffmic", {"prior": "sum", "start": "paper", "guidance_gradient": True}, "Yang et al. 2023, eq. 1 and 2"),
    ("fourier", {"beta": 0.01, "donors": 7, "search": "2d"}, "Zakazov et al. 2022, section 4: averaged optimal"),
    ("ldam", {"margin": 0.5, "beta": 0.9999, "defer": 160 / 200}, "Cao et al. 2019, section 4"),
    ("lwf", {"strength": 1.0, "temperature": 2.0}, "Li and Hoiem 2017, section 3, eq. 3 and 4"),
    ("metamedseg", {"tasks": 5, "shots": 15, "meta_epochs": 100, "batch_size": 1}, "Farshad et al. 2022, setup"),
    (
        "metamedseg",
        {"lr": 0.01, "meta_lr": 0.01, "weight_decay": 0.003, "gamma": 0.7},
        "Farshad et al. 2022, setup",
    ),
    ("metamedseg", {"tune_epochs": 20, "tune_lr": 0.005, "tune_weight_decay": 3e-5}, "Farshad et al. 2022, setup"),
    ("mixcl", {"label_weight": 0.01, "restoration_weight": 0.01}, "Li et al. 2022, eq. 2: alpha and beta"),
    ("mixcl", {"temperature": 0.1, "mu": 8.0, "epsilon": 0.05}, "Li et al. 2022, below eq. 6 and eq. 7"),
    ("mmtl", {"schedule": "paper"}, "Goodman et al. 2022, algorithm 1: from no target case on"),
    ("moco_v3", {"temperature": 0.2, "momentum": 0.99, "dimension": 256, "freeze_patches": True}, "Chen et al. 2021"),
    ("mris", {"margin": 0.1, "k": 20, "key_rate": 0.1}, "Chen and Niethammer 2023: m, top k, 1e-5 against 1e-4"),
    ("octl", {"momentum": 0.99, "betas": (0.99, 0.999), "start_step": 100}, "Goodman et al. 2022, algorithms 2 and 3"),
    ("odex", {"factor": 2.0, "history": "sum", "feature": "batch-norm"}, "Gonzalez et al. 2022: xi = 2 mu"),
    ("plop", {"strength": 0.01, "scales": 3}, "Douillard et al. 2021, section 4"),
    ("popar", {"order_weight": 0.5}, "Pang et al. 2022, section 3: lambda"),
    ("rw", {"momentum": 0.9}, "Chaudhry et al. 2018: alpha of the running Fisher information"),
    ("segjdot", {"alpha": 1e-3, "label_weight": 1.0}, "Ackaouy et al. 2020"),
    ("sissi", {"slowed": 0.9}, "Elbatel et al. 2022: the threshold of the relative change of slope"),
    ("spottunet", {"penalty": 0.0}, "Zakazov et al. 2021"),
    ("bigaug", {"probability": 0.5}, "Zhang et al. 2020, section III"),
    ("groupdro", {"rate": 0.01}, "Sagawa et al. 2020, appendix"),
    ("mean_teacher", {"weight": 20.0, "momentum": 0.99, "late_momentum": 0.999}, "Perone et al. 2019"),
    ("minent", {"weight": 1e-3}, "Vu et al. 2019: lambda_ent"),
    ("mixstyle", {"levels": 3, "probability": 0.5, "alpha": 0.1}, "Zhou et al. 2021, implementation"),
    ("pix2pix", {"weight": 100.0, "widths": (64, 128, 256, 512)}, "Isola et al. 2017, appendix 6.1.2 and 6.2"),
    ("tent", {"lr": 1e-3, "epochs": 1}, "Wang et al. 2021, section 4"),
    ("stain_aglr", {"regeneration": 0.1, "consistency": 10.0}, "Raipuria et al. 2022: lambda_1 and lambda_2"),
)


@pytest.mark.parametrize(("method", "stated", "source"), STATED, ids=lambda value: str(value)[:40])
def test_the_papers_values_are_the_defaults(method: str, stated: dict[str, object], source: str) -> None:
    made = find("method", method)()
    found = {field.name: getattr(made, field.name) for field in fields(made) if field.name in stated}
    assert found == stated, source


def test_each_paper_is_the_one_that_its_method_names() -> None:
    for method, _, source in STATED:
        paper = find("method", method).paper
        assert source.split()[0].strip(":") == paper.authors.split(",")[0].split(" ")[-1], method
        assert str(paper.year) in source, method
