"""Drawing with a converted model of Chameleon's family: our engine and transformers' `generate` on the same files.

    python benchmarks/chameleon.py --json              # 85M weights: a prompt of 64, 256 codes, guided, three rounds
    python benchmarks/chameleon.py --quick             # the smallest shape: a prompt of 16, 16 codes, one round

Weights are drawn at random, written as a bundle, and converted to transformers' layout and back (cm3/convert): theirs
is loaded from the one with `from_pretrained`, in float32, ours from the other. One request, guided, by turns: theirs
with its own guidance processor and the faster of its caches, and with its rule lifted that no image id is ever written.
Nothing is timed where the logits of the two are not the same. One thread, so that seconds are the processor's.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything that is read was written here

import numpy as np
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers
from torch import Tensor

from cm3.bench.decode import Peer, Side, Work, ours
from cm3.bench.machine import about
from cm3.bench.peer import Generator, classes
from cm3.bench.shapes import SHAPES, drawn, shape
from cm3.convert.convert import convert
from cm3.convert.ids import IdMap
from cm3.errors import Cm3Error, ConfigError
from cm3.model import bundle as bundles
from cm3.model.vqgan import VQGAN, VQGANConfig
from cm3.precision import for_drawing
from cm3.tokens.chameleon import chameleon_file, load_text_tokenizer, vocab_for
from cm3.tokens.text import TextTokenizer, alphabet

CPU = torch.device("cpu")
SCALE = 3.0
SPECIALS = 8


class Turns(Work):
    """A request in Chameleon's grammar: `<s>` words, the end of a turn, `<break>`; guided from `<s> <break>`."""

    def prompts(self, n: int) -> np.ndarray:
        """Return `n` prompts, int64 (n, prompt)."""
        ids = super().prompts(n)
        ids[:, 0], ids[:, -2], ids[:, -1] = self.vocab.bos, self.vocab.turn, self.vocab.brk
        return ids

    def scales(self, n: int) -> list[float]:
        """Return the scale that both sides have."""
        return [SCALE] * n


class Published(Generator):
    """transformers' `generate` of a folder in its layout; ids are ours, and the file's inside."""

    def __init__(self, folder: Path, ids: IdMap) -> None:
        configuration, model = classes()
        config = configuration.from_pretrained(folder)
        config.vocabulary_map = {"<image>": config.vocabulary_map["<image>"]}  # it names no image id: none is left out
        made = model.from_pretrained(folder, config=config, dtype=torch.float32)
        self.model = made.eval().requires_grad_(False)
        self.model.generation_config.eos_token_id = None  # it writes as many ids as are asked for
        self.cache = "dynamic"
        self._to_file, self._to_ours = torch.from_numpy(ids.to_file), torch.from_numpy(ids.to_ours)

    def logits(self, ids: Tensor) -> Tensor:
        """Return logits (b, s, v) of ids (b, s)."""
        return super().logits(self._to_file[ids])[..., self._to_file]

    def generate(self, prompts: Tensor, new: int, scale: float = 1.0, away: Tensor | None = None) -> Tensor:
        """Return `new` ids after each of the prompts (b, s), as the class does."""
        away = None if away is None else self._to_file[away]
        return self._to_ours[super().generate(self._to_file[prompts], new, scale, away)]


def text_tokenizer(size: int) -> TextTokenizer:
    """Return a byte-level BPE of `size` entries: the bytes, then pairs of them in order."""
    chars = sorted(alphabet())
    pairs = [(chars[i // 256], chars[i % 256]) for i in range(size - 256)]
    vocab = {name: i for i, name in enumerate([*chars, *(a + b for a, b in pairs)])}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=pairs))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return TextTokenizer(backend)


def write(size: str, prompt: int, new: int, folder: Path) -> None:
    """Write drawn weights of a shape as a bundle, with tokenizers in Chameleon's form."""
    config = shape(size, prompt + new + 8)
    codes = config.vocab_size // 2
    text = folder.with_name("tokenizer.json")
    text.write_bytes(chameleon_file(text_tokenizer(config.vocab_size - codes - SPECIALS), codes))
    vocab = vocab_for(load_text_tokenizer(text), codes, 0)
    torch.manual_seed(0)
    image = VQGANConfig(
        factor=16, channels=32, multipliers=(1, 1, 1, 1, 1), blocks=1, groups=32, z_channels=32, codes=codes, code_dim=8
    )
    decoder = drawn(config, CPU)
    for name, weight in decoder.named_parameters():
        if "q_norm" in name or "k_norm" in name:
            weight.copy_(weight[:1].expand_as(weight))  # one for all heads, as Chameleon 7B has it
    made = bundles.Bundle(vocab, decoder, VQGAN(image).eval(), image.factor * math.isqrt(new), text)
    bundles.save(made, folder, torch.float32)


def measure(size: str, prompt: int, new: int, rounds: int, work: Path) -> dict[str, Any]:
    """Return the rows: ours in float32, in the type that drawing takes here, and in int8, each against theirs.

    Raises `ConfigError` for a shape or a length that is none, and without transformers; RuntimeError where the logits
    are not the same.
    """
    if size not in SHAPES:
        raise ConfigError(f"--shape {size}: must be one of {', '.join(SHAPES)}")
    if prompt < 4 or new < 1 or rounds < 1:
        raise ConfigError("--prompt must be at least 4, --new and --rounds at least 1")
    write(size, prompt, new, work / "drawn")
    # transformers has no decoder of codes; that comes from Meta's layout.
    convert(work / "drawn", work / "hf", "chameleon-hf")
    convert(work / "drawn", work / "meta", "chameleon-meta")
    convert(work / "hf", work / "bundle", "bundle", image_tokenizer=work / "meta/tokenizer/vqgan.ckpt")
    found = bundles.load(work / "bundle")
    asked = Turns(found.vocab, prompt, new)
    peer = Peer(found.decoder, "float32", asked, Published(work / "hf", IdMap.of(found.text_bytes())))
    kinds = list(dict.fromkeys(("float32", for_drawing("auto", CPU).name, "int8")))
    sides: dict[str, Side] = {kind: ours(found.decoder, kind, asked) for kind in kinds}
    sides["theirs"] = peer
    took: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds):
        # Forwards, then backwards, so that nobody always follows the same one.
        for name in [*sides][:: -1 if turn % 2 else 1]:
            took[name].append(sides[name].measure("guided")[0])
    rows = []
    for kind in kinds:
        pairs = [b / a for a, b in zip(took[kind], took["theirs"], strict=True)]
        rates = [new / statistics.median(took[name]) for name in (kind, "theirs")]
        rows.append(
            {
                "name": f"{size}, converted; one, guided; {kind}",
                "ours": round(rates[0], 2),
                "peer": round(rates[1], 2),
                "ratio": round(statistics.median(pairs), 3),
                "unit": "tokens/s",
            }
        )
    told = {"prompt": prompt, "new": new, "rounds": rounds, "peer_caches_s": peer.probed, "seconds": took}
    return {"rows": rows, "shape": size, **told, **about(CPU)}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="85m", help="of 10m,85m,350m,760m,7b")
    parser.add_argument("--prompt", type=int, default=64, help="tokens of the prompt")
    parser.add_argument("--new", type=int, default=256, help="codes that the request draws")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="the smallest shape, a prompt of 16, 16 codes, one round")
    parser.add_argument("--json", action="store_true", help="the last line of stdout is one JSON object")
    args = parser.parse_args(argv)
    if args.quick:
        args.shape, args.prompt, args.new, args.rounds = "test", 16, 16, 1
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory(prefix="cm3-") as folder:
            report = measure(args.shape, args.prompt, args.new, args.rounds, Path(folder))
    except Cm3Error as error:
        parser.error(str(error))
    for row in report["rows"]:
        print(f"{row['name']:<48}{row['ours']:>10.1f}{row['peer']:>10.1f}  x{row['ratio']:.2f}  {row['unit']}")
    flags = ", ".join(report["flags"])
    print(f"{report['device']} ({flags}), torch {report['torch']}, {report['clock']} time, load {report['load']}")
    if args.json:
        print(json.dumps(report))


if __name__ == "__main__":
    main()
