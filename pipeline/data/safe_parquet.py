"""pyarrow's Parquet, for files that somebody else may have written.

pyarrow before 14.0.1 unpickles what a file says, and so runs it (CVE-2023-47248); pyarrow_hotfix,
which its makers publish, has it refuse that. Whatever reads Parquet takes it from here.
"""

from __future__ import annotations

import importlib

import pyarrow as pa
import pyarrow.parquet as pq

__all__ = ["pq"]

if hasattr(pa, "PyExtensionType") and not hasattr(pa.PyExtensionType, "set_auto_load"):
    importlib.import_module("pyarrow_hotfix")
