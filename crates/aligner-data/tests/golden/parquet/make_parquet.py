"""Makes the Parquet files beside it, as pyarrow and Hugging Face's datasets write them, and rows.jsonl, what pyarrow reads
from them. Rows are compared for equality: nothing is rounded on the way.

    pip install pyarrow==26.0.1 datasets==5.2.0
    python make_parquet.py
"""
import json
import pathlib

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

here = pathlib.Path(__file__).resolve().parent
row_type = pa.schema([
    ("id", pa.int64()),
    ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
    ("source", pa.string()),
    ("score", pa.float64()),
    ("tags", pa.list_(pa.string())),
    ("meta", pa.struct([("lang", pa.string()), ("votes", pa.int32())])),
])


def row(i):
    said = [("user", f"Question {i}: how many?"), ("assistant", f"{i} of them — “all”.\n")]
    if i % 3 == 1:
        said += [("user", "Sure?"), ("assistant", "Yes.")]
    if i % 4 == 2:
        said.insert(0, ("system", "Be brief."))
    return dict(
        id=i,
        messages=[dict(role=role, content=content) for role, content in said],
        source=["web", "book", None][i % 3],  # few values: a dictionary page
        score=None if i == 5 else i / 8,
        tags=[[], None, ["a", None, "b"]][i % 3],
        meta=None if i == 7 else dict(lang="en", votes=-i),
    )


rows = [row(i) for i in range(13)]
(here / "rows.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
table = pa.Table.from_pylist(rows, schema=row_type)
variants = dict(
    snappy=dict(compression="snappy"),
    zstd=dict(compression="zstd", data_page_version="2.0"),
    lz4=dict(compression="lz4", use_compliant_nested_type=False),
    gzip=dict(compression="gzip", use_dictionary=False, data_page_size=64),
)
for name, how in variants.items():
    pq.write_table(table, here / f"{name}.parquet", row_group_size=7, write_statistics=False, store_schema=False, **how)
    assert pq.read_table(here / f"{name}.parquet").to_pylist() == rows
datasets.Dataset.from_list(rows).to_parquet(here / "datasets.parquet", batch_size=7)

# A compression that is not read.
pq.write_table(table.slice(0, 1).select(["id"]), here / "brotli.parquet", compression="brotli", store_schema=False)
