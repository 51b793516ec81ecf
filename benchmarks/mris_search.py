"""1,000 queries against 100,000 keys of 512 dimensions, k = 20, images of 64 x 64 in half precision
in a file: beside FAISS's search alone. Cold: no row has been read, and none compared with its
checksum."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from ratio import compare, keep, seconds

from allograft.nn.retrieval import blended
from allograft.predictor.mapped import Mapped
from allograft.predictor.retrieval import QUERIES, Database
from allograft.tree import write_chunks

QUERY, KEYS, WIDTH, K, SIDE = 1000, 100_000, 512, 20, 64


def main() -> None:
    rng = torch.Generator().manual_seed(0)
    keys = F.normalize(torch.randn(KEYS, WIDTH, generator=rng), dim=1)
    query = F.normalize(torch.randn(QUERY, WIDTH, generator=rng), dim=1)
    names = tuple(map(str, range(KEYS)))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "images.bin"
        values = np.random.default_rng(0).random((KEYS, 1, SIDE, SIDE), np.float32).astype(np.float16)
        whole = Mapped(values)
        write_chunks(file, whole.chunks())
        shape, hashes = whole.shape, whole.hashes
        del values, whole

        def database() -> Database:
            images = Mapped.open(file, "float16", shape, hashes)
            return Database(None, None, keys, images, names, names, K, "released")

        def answered(made: Database) -> None:
            similarity, index = made.search(query, K)
            for start in range(0, QUERY, QUERIES):
                some, at = similarity[start : start + QUERIES], index[start : start + QUERIES]
                blended(some, made.images.rows(at.flatten()).unflatten(0, tuple(at.shape)).float(), "released")

        warm = database()
        assert warm.index is not None, "install the extra: pip install 'allograft[faiss]'"
        vectors = query.numpy()
        bare = seconds(lambda: warm.index.search(vectors, K))
        cold = database()
        cold.__dict__["index"] = warm.index  # the bare search has its index too
        first = seconds(lambda: answered(cold))
        keep("mris_search_cold", {"ratio": round(first / bare, 4), "limit": 1.3})
        compare("mris_search_warm", lambda: answered(warm), lambda: warm.index.search(vectors, K), limit=1.1, rounds=5)


if __name__ == "__main__":
    main()
