"""The preprocessing contract that the pipeline packs into a model's file.

TFLite Metadata keeps files that belong to a model in a zip archive at the end of its file. Besides
the labels that other clients read, the pipeline puts the whole contract there, so that a file that
was copied from somewhere says by itself how images are prepared for it.
"""

import io
import zipfile

from edgeline.contract import MAX_BYTES, PreprocessingContract
from edgeline.errors import ContractError

PACKED_CONTRACT = "preprocessing.json"


def packed_contract(content: bytes, name: str) -> PreprocessingContract:
    """Return the contract in a model's file.

    Args:
        content: The file's bytes.
        name: The file's name, for errors.

    Raises:
        ContractError: it has none, or one that this edgeline cannot honour.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive, archive.open(PACKED_CONTRACT) as file:
            data = file.read(MAX_BYTES + 1)
    except (zipfile.BadZipFile, KeyError, ValueError, NotImplementedError, RuntimeError, OSError):
        raise ContractError(
            f"{name} brings no preprocessing contract along, as the models of edgeline's pipeline "
            "do. Give the one that it was trained with"
        ) from None
    except Exception as error:
        # zlib.error, EOFError, struct.error: a damaged archive fails in many ways.
        raise ContractError(f"The contract in {name} is damaged: {error}") from None
    return PreprocessingContract.from_json(data)
