"""Where the files of a pretrained checkpoint are: an alias, a local folder, or a hub id in the Hugging Face cache.

Only safetensors are accepted as weights: no pickle is ever loaded.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from .errors import InputError, nearest
from .files import read_json

ALIASES: dict[str, str] = {
    "bert-base": "google-bert/bert-base-uncased",
    "bert-base-cased": "google-bert/bert-base-cased",
    "bert-large": "google-bert/bert-large-uncased",
    "bert-large-cased": "google-bert/bert-large-cased",
    "bert-multilingual": "google-bert/bert-base-multilingual-cased",
    "distilbert": "distilbert/distilbert-base-uncased",
    "roberta-base": "FacebookAI/roberta-base",
    "roberta-large": "FacebookAI/roberta-large",
    "xlm-roberta-base": "FacebookAI/xlm-roberta-base",
    "xlm-roberta-large": "FacebookAI/xlm-roberta-large",
    "deberta-v3-small": "microsoft/deberta-v3-small",
    "deberta-v3-base": "microsoft/deberta-v3-base",
    "deberta-v3-large": "microsoft/deberta-v3-large",
    "electra-small": "google/electra-small-discriminator",
    "electra-base": "google/electra-base-discriminator",
    "electra-large": "google/electra-large-discriminator",
    "modernbert-base": "answerdotai/ModernBERT-base",
    "modernbert-large": "answerdotai/ModernBERT-large",
    "albert-base": "albert/albert-base-v2",
    "mpnet-base": "microsoft/mpnet-base",
    "minilm": "sentence-transformers/all-MiniLM-L6-v2",
}

WEIGHTS, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt",
    "vocab.json", "merges.txt", "spm.model", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model",
)  # fmt: skip
# The title and author by which the hub's own service offers safetensors of a repository that has only pickles.
CONVERSION_TITLE, CONVERSION_AUTHOR = "Adding `safetensors` variant of this model", "SFconvertbot"

LOCAL_FORMS = "give a folder with config.json and model.safetensors, or fill the cache where there is a network"
LOCAL_TEACHERS = (
    "give a folder with config.json and model.safetensors, a labels file (.parquet, .jsonl, .csv), "
    "python:module:function, or fill the cache where there is a network"
)


def hub_id(source: str) -> str:
    """The hub id an alias stands for; any other name as it is."""
    return ALIASES.get(source.lower(), source)


def checkpoint_folder(source: str, place: str, *, revision: str | None = None, weights: bool = True) -> Path:
    """The local folder with the files of `source`: a folder, an alias or a hub id.

    A hub id is looked up on the hub, then in the cache; with HF_HUB_OFFLINE=1 in the cache only (HF_HOME and
    HF_HUB_CACHE say where that is). place: what an error names as its origin. weights: whether they are needed.
    Raises InputError when nothing is found, naming the forms that need no network.
    """
    folder = Path(source).expanduser()
    if folder.is_dir() and ((folder / "config.json").is_file() or source.lower() not in ALIASES):
        if not (folder / "config.json").is_file():
            raise InputError(place, f"the folder {folder} holds no config.json", "is it a Hugging Face checkpoint?")
    elif source.startswith(("/", "./", "../", "~")) or source.count("/") > 1 or folder.is_file():
        kind = "a file, not a checkpoint folder" if folder.is_file() else "not there"
        raise InputError(place, f"{folder} is {kind}", "give a folder with config.json and model.safetensors")
    else:
        folder = _from_hub(hub_id(source), source, place, revision, weights)
    if weights:
        weight_files(folder, place)
    return folder


def weight_files(folder: Path, place: str) -> list[Path]:
    """The safetensors files of a checkpoint, in order of name; InputError if there is none or a shard is missing."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / WEIGHTS_INDEX).is_file():
        shards = sorted(set(read_json(folder / WEIGHTS_INDEX)["weight_map"].values()))
        missing = [name for name in shards if not (folder / name).is_file()]
        if missing:
            raise InputError(place, f"{folder} lacks {missing[0]} ({len(missing)} of {len(shards)} shards missing)")
        return [folder / name for name in shards]
    pickles = sorted(path.name for path in folder.glob("*.bin"))
    if pickles:
        raise InputError(
            place,
            f"{folder} has its weights as a pickle only ({pickles[0]}), which is never loaded",
            "convert it: AutoModel.from_pretrained(...).save_pretrained(folder) writes model.safetensors",
        )
    raise InputError(place, f"{folder} has no {WEIGHTS}", "give a checkpoint with safetensors weights")


def has_weights(folder: Path) -> bool:
    """Whether the folder holds safetensors weights or their index."""
    return (folder / WEIGHTS).is_file() or (folder / WEIGHTS_INDEX).is_file()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Holds back transformers' progress bars and its notes about newly initialised weights."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _from_hub(repo: str, source: str, place: str, revision: str | None, weights: bool) -> Path:
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, LocalEntryNotFoundError

    called = f"'{source}' ({repo})" if repo != source else f"'{source}'"
    near = nearest(source, ALIASES) if source.lower() not in ALIASES and "/" not in source else None
    forms = LOCAL_TEACHERS if place.startswith("teacher") else LOCAL_FORMS
    remedy = f"did you mean '{near}'? Otherwise {forms}" if near else forms
    remedy += f": `hf download {repo}`"
    try:
        folder = _snapshot(repo, revision)
        if weights and not has_weights(folder) and revision is None:
            folder = _converted(repo) or folder
    except HFValidationError as error:
        raise InputError(place, f"'{source}' is neither a folder nor a possible hub id", forms) from error
    except LocalEntryNotFoundError as error:
        offline = " and HF_HUB_OFFLINE forbids a download" if _offline() else " and the hub cannot be reached"
        raise InputError(
            place, f"{called} is no folder here, is not in the Hugging Face cache ({_cache()}){offline}", remedy
        ) from error
    except HfHubHTTPError as error:
        first_line = str(error).strip().splitlines()[0]
        raise InputError(place, f"{called} cannot be read from the hub ({first_line})", remedy) from error
    except (HTTPError, OSError) as error:
        raise InputError(place, f"{called} cannot be downloaded ({type(error).__name__}: {error})", remedy) from error
    if not (folder / "config.json").is_file():
        raise InputError(place, f"the cached copy of {called} in {folder} is incomplete (no config.json)", remedy)
    if weights and not has_weights(folder):
        raise InputError(
            place,
            f"{called} has no safetensors weights in {folder}; pickled weights are never loaded",
            "name a revision that has them (`revision: refs/pr/N`), or convert the model and give the folder",
        )
    return folder


def _snapshot(repo: str, revision: str | None) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import IncompleteSnapshotError

    patterns = ["config.json", "model*.safetensors", WEIGHTS_INDEX, "*.py", *TOKENIZER_FILES]
    try:
        return Path(
            snapshot_download(
                repo,
                revision=revision,
                cache_dir=constants.HF_HUB_CACHE,
                allow_patterns=patterns,
                ignore_patterns=["*/*"],  # the formats of other frameworks lie in subfolders
                local_files_only=_offline(),
            )
        )
    except IncompleteSnapshotError as error:
        # Files that are not needed here may be missing; those that are, the caller asks for by name.
        return Path(error.snapshot_path)


def _converted(repo: str) -> Path | None:
    """The hub's own safetensors conversion of a repository of pickles: a pull request of its conversion service."""
    from huggingface_hub import get_repo_discussions

    cached = _cache() / f"models--{repo.replace('/', '--')}" / "refs" / "refs" / "pr"
    for reference in sorted(cached.glob("*")):
        folder = _snapshot(repo, f"refs/pr/{reference.name}")
        if has_weights(folder):
            return folder
    if not _offline():
        for discussion in get_repo_discussions(repo):
            title, author = discussion.title, discussion.author
            if discussion.is_pull_request and title == CONVERSION_TITLE and author == CONVERSION_AUTHOR:
                return _snapshot(repo, discussion.git_reference)
    return None


def _offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)
