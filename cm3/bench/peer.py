"""The peer: our weights in transformers' Chameleon.

Its rule that image ids are never written is lifted, as it could draw nothing with it: the vocabulary that it is given
names no id of an image. Its VQ tokenizer is left out.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cm3.errors import ConfigError
from cm3.model.decoder import Decoder, DecoderConfig

_NAMES = {"norm1": "input_layernorm", "norm2": "post_attention_layernorm"}
_NAMES |= {f"w{x}": f"self_attn.{x}_proj" for x in "qkvo"} | {f"{x}_norm": f"self_attn.{x}_norm" for x in "qk"}
_NAMES |= {x: f"mlp.{x}_proj" for x in ("up", "gate", "down")}


def classes() -> tuple[Any, Any]:
    """Return transformers' configuration and model of Chameleon. Raises `ConfigError` without transformers."""
    try:
        from transformers import ChameleonConfig, ChameleonForConditionalGeneration
    except ImportError as error:
        raise ConfigError("the peer needs transformers, which is not installed: pip install transformers") from error
    return ChameleonConfig, ChameleonForConditionalGeneration


def chameleon(config: DecoderConfig, **more: Any) -> Any:
    """Return transformers' `ChameleonForConditionalGeneration` of our shape, its weights its own.

    `more` goes to its configuration. Raises `ConfigError` without transformers.
    """
    configuration, model = classes()
    made = model(
        configuration(
            vocab_size=config.vocab_size,
            hidden_size=config.d_model,
            intermediate_size=config.ffn,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.kv_heads or config.heads,
            max_position_embeddings=config.context,
            rms_norm_eps=config.norm_eps,
            vocabulary_map={"<image>": 3},
            vq_config={"base_channels": 32, "channel_multiplier": [1], "num_res_blocks": 1, "attn_type": "none"},
            **more,
        )
    )
    made.model.vqmodel = None
    return made


def as_chameleon(decoder: Decoder) -> dict[str, Tensor]:
    """Return our weights by its names; the tensors are ours."""
    state = {}
    for key, value in decoder.state_dict().items():
        first, *rest = key.split(".")
        if first == "blocks":
            state[f"model.layers.{rest[0]}.{_NAMES[rest[1]]}.{rest[2]}"] = value
        else:
            name = {"embed": "model.embed_tokens", "norm": "model.norm", "output": "lm_head"}[first]
            state[f"{name}.weight"] = value
    return state


class Generator:
    """Its `generate` on our weights: codes are sampled at temperature 1 from all ids.

    Weights lie in memory as transformers has them, so those that ours hold transposed are copied.

    `cache`: "dynamic" or "static", its two kinds. Raises `ConfigError` without transformers.
    """

    def __init__(self, decoder: Decoder, cache: str = "dynamic") -> None:
        usual = torch.get_default_dtype()
        weight = decoder.embed.weight
        torch.set_default_dtype(weight.dtype)
        try:
            with weight.device:
                self.model = chameleon(decoder.config).eval().requires_grad_(False)
        finally:
            torch.set_default_dtype(usual)
        self.model.load_state_dict({k: v.contiguous() for k, v in as_chameleon(decoder).items()}, assign=True)
        self.model.generation_config.eos_token_id = None  # it writes as many ids as are asked for
        self.cache = cache

    @torch.inference_mode()
    def logits(self, ids: Tensor) -> Tensor:
        """Return logits (b, s, v) of ids (b, s)."""
        found: Tensor = self.model(input_ids=ids, use_cache=False).logits
        return found

    @torch.inference_mode()
    def generate(self, prompts: Tensor, new: int, scale: float = 1.0, away: Tensor | None = None) -> Tensor:
        """Return `new` ids after each of the prompts (b, s), guided from the prompt `away` (1, s') by its own
        processor where `scale` is not 1: one scale for all."""
        guided: dict[str, Any] = {} if scale == 1.0 else {"guidance_scale": scale, "negative_prompt_ids": away}
        made: Tensor = self.model.generate(
            input_ids=prompts,
            attention_mask=torch.ones_like(prompts),
            max_new_tokens=new,
            do_sample=True,
            top_k=0,
            top_p=1.0,
            temperature=1.0,
            pad_token_id=1,
            cache_implementation=self.cache,
            **guided,
        )
        return made[:, prompts.shape[1] :]
