"""Pretrained models, loaded from the hub, a folder or a GGUF file (safetensors or GGUF, never pickled, no code of others); devices, and the
type in which one computes fastest."""
import hashlib
import logging
import os
import shutil
import sys
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from data.splits import DataError, save_folder

transformers.logging.set_verbosity_error()
logging.getLogger("huggingface_hub").setLevel(logging.ERROR)           # what it retries, the error at the end says
transformers.logging.disable_progress_bar()


def first_line(error):
    """What a library's exception says, in one line; where it says nothing, what it is."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def load_causal_lm(spec):
    """(model, tokenizer) of `gguf:FILE`, a folder or a hub name; fp32 weights, from safetensors or GGUF only.

    Reading a GGUF file takes minutes, so it is converted once and kept in the user's cache folder. Raises DataError.
    """
    folder = str(spec).removeprefix("hf:")
    if folder.startswith("gguf:"):
        folder = converted_gguf(Path(folder.removeprefix("gguf:")))
    return load(folder, AutoModelForCausalLM, f"{spec}: not a causal LM")


def load_encoder_decoder(spec):
    """(model, tokenizer) of a folder or a hub name; fp32 weights, from safetensors only. Raises DataError."""
    return load(spec, AutoModelForSeq2SeqLM, f"{spec}: not an encoder-decoder")


def load(folder, kind, problem):
    """(model, tokenizer). DataError, beginning with `problem`, also where a part is missing, as after a download that was cut off:
    transformers would put random weights, or a tokenizer without its vocabulary, in its place."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        model, found = kind.from_pretrained(folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False,
                                            output_loading_info=True)
        lost = sorted(name for name in found["missing_keys"]             # but for positions that are computed, as Pegasus's
                      if "Sinusoidal" not in type(model.get_submodule(name.rpartition(".")[0])).__name__)
        if lost:
            raise ValueError(f"expected all of its weights, {len(lost)} are missing, such as {lost[0]}")
        if len(tokenizer) < (size := model.config.get_text_config().vocab_size) / 2:        # a few more weights than items are usual
            raise ValueError(f"expected a tokenizer of about {size:,} items, found {len(tokenizer):,}: are all of its files there?")
        return model.eval(), tokenizer
    except Exception as error:                              # the files may be anybody's
        raise DataError(f"{problem} that can be loaded: {first_line(error)}") from None


def save(folder, model, tokenizer):
    """Both in `folder`, as transformers writes them. Raises DataError for what its libraries make of a full disk."""
    try:
        tokenizer.save_pretrained(folder)
        model.save_pretrained(folder)
    except OSError:
        raise
    except Exception as error:
        raise DataError(f"{folder}: the model cannot be written: {first_line(error)}") from None


def load_config(spec, expected):
    """The config of a model, a folder or a hub name, without the model; DataError, saying what was `expected`, where there is none, or
    where a folder has no weights beside it."""
    try:
        config = AutoConfig.from_pretrained(spec, trust_remote_code=False)
    except Exception as error:
        raise DataError(f"{spec}: expected {expected}: {first_line(error)}") from None
    if Path(spec).is_dir() and not any(Path(spec).glob("*.safetensors")):
        raise DataError(f"{spec}: expected weights in a safetensors file, found none")
    return config


def gguf_digest(file):
    """The sha256 of a GGUF file, shortened; DataError where it is none."""
    if not file.is_file():
        raise DataError(f"{file}: expected a GGUF file, found none")
    with open(file, "rb") as opened:
        if opened.read(4) != b"GGUF":
            raise DataError(f"{file}: expected a GGUF file, found something else")
    return digest(file)


def digest(file):
    """The sha256 of a file, shortened; computed once for as long as the file stays as it is."""
    return _digest(file, file.stat().st_size, file.stat().st_mtime_ns)


@cache
def _digest(file, *_):
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()[:16]


def identified(spec):
    """The spec of a model with a digest, so that another model at the same place has another name: of a GGUF file, or of
    a folder's config.json, weights and tokenizer. A hub name stays alone."""
    folder = Path(spec.removeprefix("hf:"))
    if spec.startswith("gguf:"):
        return f"{spec} {gguf_digest(Path(spec.removeprefix('gguf:')))}"
    if not (folder / "config.json").is_file():
        return spec
    files = [folder / "config.json"]
    for pattern in ("*.safetensors", "tokenizer*", "vocab*", "*.model"):
        files += sorted(folder.glob(pattern))
    return " ".join([spec, *map(digest, filter(Path.is_file, files))])


def converted_gguf(file):
    """The folder that holds this GGUF file's weights as safetensors, made at first use."""
    try:
        kept = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mckd" / f"{file.stem}-{gguf_digest(file)}"
    except RuntimeError:                                                # nobody's: a container may have no home folder
        raise DataError("expected XDG_CACHE_HOME to name a folder for converted models, for there is no home folder") from None
    if not (kept / "config.json").is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)                  # where that is not allowed, it is said now
        print(f"reading {file} (once; kept in {kept}) …", file=sys.stderr)
        try:
            tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, trust_remote_code=False)
            read = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32, trust_remote_code=False)
        except ImportError as error:
            raise DataError(f"{file}: {first_line(error)} (GGUF needs: pip install gguf accelerate)") from None
        except Exception as error:                                      # the file may be anybody's, or cut off
            raise DataError(f"{file}: expected a GGUF file of a causal LM: {first_line(error)}") from None
        # A model read from GGUF refuses to be saved; the same weights in a plain model do not.
        config = read.config
        del config.quantization_config
        plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        plain.load_state_dict(read.state_dict())
        own = kept.with_name(f"{kept.name}.{os.getpid()}")              # another process may be reading the same file
        save_folder(own, lambda folder: save(folder, plain, tokenizer))
        try:
            os.rename(own, kept)
        except OSError as error:                                        # it was faster
            shutil.rmtree(own)
            if not (kept / "config.json").is_file():
                raise DataError(f"{kept}: expected a converted model there ({error.strerror}); delete it") from None
    return kept


def context_length(model):
    """How many tokens the model takes. Where its config names no limit, memory sets one to an encoder-decoder such as T5: its
    attention takes the square of a sentence's length. A causal LM then has practically none."""
    named = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return named or (2048 if model.config.is_encoder_decoder else 10 ** 9)


def device_named(name):
    """The torch.device that --device names (`auto`: cuda where there is one, else cpu); DataError where it cannot be used here."""
    name = name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    try:
        probe = torch.zeros(1, device=name)
        probe.item()                                                    # "meta" is a device without values
        return probe.device
    except (RuntimeError, AssertionError, ImportError):
        raise DataError(f"device {name}: expected one that PyTorch can use here, such as cpu") from None


def fast_bf16(device):
    """Whether bf16 is faster than fp32 here: on GPUs that have it, on CPUs with AMX, and on AMD's with AVX512-BF16. Intel's without
    AMX have those instructions too, but slower than fp32's; elsewhere bf16 is emulated."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    has = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return has.get("amx_bf16", False) or (has.get("avx512_bf16", False) and not has["cpu_name"].startswith("Intel"))


def fast_dtype(device):
    """The type in which this device multiplies matrices fastest."""
    return torch.bfloat16 if fast_bf16(device) else torch.float32


def autocast(device):
    """Matrix products in `fast_dtype`; weights stay as they are."""
    return torch.autocast(device.type, torch.bfloat16, enabled=fast_bf16(device))


@contextmanager
def converted_once(model):
    """Inside, the weights of the linear layers are in `fast_dtype`: autocast would convert them, all of them, at every step,
    to the same numbers: the LLM labels 1.2 times as fast. Afterwards the model is what it was."""
    output = model.get_output_embeddings()                              # of which only a few rows are read
    weights = [module.weight for module in model.modules() if isinstance(module, torch.nn.Linear) and module is not output]
    kept = [weight.data for weight in weights]
    try:
        for weight in weights:
            weight.data = weight.data.to(fast_dtype(model.device))
        yield
    finally:
        for weight, data in zip(weights, kept):
            weight.data = data
