"""T5 in few and large operations: transformers' model and weights, the same numbers, less time.

What a small model costs on a CPU is mostly the number of operations, not their size. Six techniques cut it: `tiny` trains 1.2 times
as fast as with transformers' T5, and labels 1.8 times as fast (notebooks/speed.md has what each buys alone, some next to nothing):

- *Stacked weights* (`stack_weights`): what plays the same part in every layer is one tensor, so the optimizer and the
  conversion to bf16 touch 26 tensors instead of 68 in `tiny`.
- *One product instead of three* (`joined`): queries, keys and values of a layer, and the keys and values that all
  decoder layers take from the encoder.
- *Converted once* (`converted`): weights go to bf16 once a training step, and once for a whole labelling, not once an operation.
- *Only the embeddings that are read* (`known_rows`): a training step takes the rows of the tokens that examples hold, not of all.
- *Cheap dropout* (`drop`).
- *A key-value cache that grows by doubling* (`Memory`), not by a copy of everything for every token; the keys and values
  of the input are computed once, and lie in the order in which they are read.
"""
import re

import torch
from torch.nn.functional import embedding, linear, pad, rms_norm
from transformers.activations import ACT2FN

from data.decoding import candidate_logits

EMBEDDINGS = "shared", "lm_head"            # of what is read, and of what is written where that is another matrix


def stack_weights(model):
    """{role: Parameter (layers, rows, columns)}; the model's own weights become slices of them, so it still saves itself. (1.0 times
    as fast. It stays because Adafactor bounds its update tensor by tensor: the results in the README are with these.)"""
    roles = {}
    for name, weight in model.named_parameters():
        roles.setdefault(re.sub(r"block\.\d+\.|\.weight$", "", name), []).append(weight)
    stacks = {}
    for role, weights in roles.items():
        stacks[role] = torch.nn.Parameter(torch.stack([weight.data for weight in weights]))
        for weight, part in zip(weights, stacks[role].data):
            weight.data = part
    return stacks


def known_rows(w, known):
    """Of the embeddings only the rows of the tokens `known` (K): t5-small's size trains 1.5 times as fast as with all 32,128."""
    return {role: w[role].index_select(1, known) for role in EMBEDDINGS if role in w}


def joined(w):
    """The weights by role, each cut into its layers; what is multiplied with the same states is one matrix (1.0 times as fast)."""
    for stack in ("encoder", "decoder"):
        w[f"{stack}.qkv"] = torch.cat([w.pop(f"{stack}.layer.0.SelfAttention.{x}") for x in "qkv"], 1)
    memory = torch.cat([w.pop(f"decoder.layer.1.EncDecAttention.{x}") for x in "kv"], 1).flatten(0, 1)      # of all decoder layers
    return {role: stack.unbind(0) for role, stack in w.items()} | {"memory": memory}


class T5:
    """An encoder and a decoder that read the weights of a T5ForConditionalGeneration."""

    def __init__(self, model):
        self.config, self.stacks = model.config, stack_weights(model)
        self.activation = ACT2FN[self.config.dense_act_fn]
        attention = model.encoder.block[0].layer[0].SelfAttention
        far = self.config.relative_attention_max_distance
        distance = torch.arange(-far, far + 1, device=model.device)             # further is the same as `far`
        self.buckets = {stack: attention._relative_position_bucket(
            distance, stack == "encoder", self.config.relative_attention_num_buckets, far) for stack in ("encoder", "decoder")}
        self.far, self.training, self.w = far, False, None

    def prepare(self, dtype, training=False, known=None):
        """Before a training step, or before a whole labelling: make the weights ready to be multiplied in `dtype`. With `known`,
        sorted token ids (K), a token is from then on its place among them."""
        self.dtype, self.training = dtype, training
        w = self.converted()
        if known is not None:
            w |= known_rows(w, known)
        self.w = joined(w)
        return self

    def converted(self):
        """The matrices in this step's type: once, not once an operation. What is only looked up or added stays as it is."""
        return {role: stack if "norm" in role or "bias" in role or role in EMBEDDINGS else stack.to(self.dtype)
                for role, stack in self.stacks.items()}

    def norm(self, x, role, layer=0):
        """T5's layer norm (no mean, no bias) of x (rows, tokens, d_model); `role` names its weights."""
        return rms_norm(x, x.shape[-1:], self.w[role][layer], self.config.layer_norm_epsilon).to(self.dtype)

    def drop(self, x):
        """Dropout. A random number of 64 bits serves eight elements, where torch's own draws one for each: `tiny` trains 1.1 times as
        fast. (The rate is a multiple of 1/256: 0.1 becomes 0.102.)"""
        dropped = round(256 * self.config.dropout_rate) * self.training
        if not dropped:
            return x
        noise = torch.randint(-2 ** 63, 2 ** 63 - 1, (x.numel() // 8 + 1,), device=x.device).view(torch.uint8)
        return x * (noise[:x.numel()].view(x.shape) >= dropped).to(x.dtype).mul_(256 / (256 - dropped))

    def heads(self, x):
        """(rows, tokens, heads * size) as (rows, heads, tokens, size)."""
        return x.unflatten(2, (self.config.num_heads, -1)).transpose(1, 2)

    def bias(self, stack, distance):
        """(rows, queries, keys) of distances, key's position minus query's, as (rows, heads, queries, keys) of scores."""
        table = self.w[f"{stack}.layer.0.SelfAttention.relative_attention_bias"][0]
        buckets = self.buckets[stack][distance.clamp(-self.far, self.far) + self.far]
        return embedding(buckets, table).permute(0, 3, 1, 2)

    def attend(self, query, keys, values, bias):
        """query: (rows, heads, new, size); keys, values: (rows, heads, seen, size); bias: broadcast to (rows, heads, new, seen), -inf where
        nothing may be seen. Returns (rows, new, heads * size)."""
        scores = (query.to(keys.dtype) @ keys.transpose(2, 3)).float() + bias
        weights = self.drop(scores.softmax(-1).to(keys.dtype))
        return (weights @ values).transpose(1, 2).flatten(2).to(self.dtype)

    def feed_forward(self, x, stack, layer, sublayer):
        """The last sublayer of a block, with its residual: (rows, tokens, d_model) to the same. `sublayer`: its number in the block."""
        part = f"{stack}.layer.{sublayer}."
        here = self.norm(x, f"{part}layer_norm", layer)
        if self.config.is_gated_act:
            here = self.activation(linear(here, self.w[f"{part}DenseReluDense.wi_0"][layer])) \
                * linear(here, self.w[f"{part}DenseReluDense.wi_1"][layer])
        else:
            here = self.activation(linear(here, self.w[f"{part}DenseReluDense.wi"][layer]))
        return x + self.drop(linear(self.drop(here), self.w[f"{part}DenseReluDense.wo"][layer]))

    def embed(self, ids):
        return embedding(ids, self.w["shared"][0])

    def encode(self, ids, mask):
        """The encoder's states (rows, tokens, d_model) of token ids; `mask` (rows, tokens) says which are real."""
        places = torch.arange(ids.shape[1], device=ids.device)
        bias = self.bias("encoder", (places - places[:, None])[None])
        bias = bias.masked_fill(~mask[:, None, None], -torch.inf)
        x = self.drop(self.embed(ids))
        for layer in range(self.config.num_layers):
            here = self.norm(x, "encoder.layer.0.layer_norm", layer)
            query, keys, values = map(self.heads, linear(here, self.w["encoder.qkv"][layer]).chunk(3, 2))
            x = x + self.drop(linear(self.attend(query, keys, values, bias), self.w["encoder.layer.0.SelfAttention.o"][layer]))
            x = self.feed_forward(x, "encoder", layer, 1)
        return self.drop(self.norm(x, "encoder.final_layer_norm"))

    def decode(self, x, memory):
        """The decoder's states (rows, new tokens, d_model) of embedded tokens, which `memory` takes in."""
        distance = memory.distances(x.shape[1])
        bias = self.bias("decoder", distance).masked_fill((distance > 0)[:, None], -torch.inf)  # what comes later is unseen
        x = self.drop(x)
        for layer in range(self.config.num_decoder_layers):
            here = self.norm(x, "decoder.layer.0.layer_norm", layer)
            query, keys, values = map(self.heads, linear(here, self.w["decoder.qkv"][layer]).chunk(3, 2))
            keys, values = memory.extended(layer, keys, values)
            x = x + self.drop(linear(self.attend(query, keys, values, bias), self.w["decoder.layer.0.SelfAttention.o"][layer]))
            here = self.norm(x, "decoder.layer.1.layer_norm", layer)
            query = self.heads(linear(here, self.w["decoder.layer.1.EncDecAttention.q"][layer]))
            attended = self.attend(query, *memory.read[layer], memory.input_bias)
            x = x + self.drop(linear(attended, self.w["decoder.layer.1.EncDecAttention.o"][layer]))
            x = self.feed_forward(x, "decoder", layer, 2)
        memory.held += x.shape[1]
        x = self.drop(self.norm(x, "decoder.final_layer_norm"))
        return x * self.config.d_model ** -0.5 if self.config.scale_decoder_outputs else x

    @property
    def output_matrix(self):
        return self.w["shared" if self.config.tie_word_embeddings else "lm_head"][0]


class Memory:
    """What a decoder may attend to: the input's keys and values, computed once, and those of the tokens written so far.

    `states`: the encoder's, (rows, tokens, d_model); `mask`: (rows, tokens), which of them are real; `room`: for how many tokens a row
    there is room at first, 0 in training, where all tokens of a target come at once.
    """

    def __init__(self, t5, states, mask, room=0):
        read = linear(states, t5.w["memory"])
        if room:
            read = read.float()                 # products as small as one query's are faster so than in bf16
        # In the order in which they are read, or every product would copy them: `tiny` labels 1.2 times as fast.
        parts = [t5.heads(part).contiguous() for part in read.chunk(2 * t5.config.num_decoder_layers, 2)]
        self.read = list(zip(parts[::2], parts[1::2]))
        self.input_bias = torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, -torch.inf)[:, None, None]
        self.held = 0                                                                       # tokens written so far
        keys = self.read[0][0]
        shape = (len(mask), keys.shape[1], room, keys.shape[3])
        self.own = [(keys.new_empty(shape), keys.new_empty(shape)) for _ in self.read] if room else None

    def distances(self, new):
        """(1, new tokens, keys): how far each key lies behind (negative) each of the `new` tokens."""
        places = torch.arange(self.held + new, device=self.input_bias.device)
        return (places - places[self.held:, None])[None]

    def extended(self, layer, keys, values):
        """All keys and values of this layer, with those of the new tokens. The store grows by doubling, where a copy for every token
        is 1.1 times as slow."""
        if self.own is None:
            return keys, values
        end = self.held + keys.shape[2]
        if end > self.own[layer][0].shape[2]:
            self.own[layer] = tuple(pad(store, (0, 0, 0, end)) for store in self.own[layer])
        for store, new in zip(self.own[layer], (keys, values)):
            store[:, :, self.held:end] = new
        return tuple(store[:, :, :end] for store in self.own[layer])

    def keep(self, rows):
        """Only these rows go on."""
        self.read = [(keys[rows], values[rows]) for keys, values in self.read]
        self.own = [(keys[rows], values[rows]) for keys, values in self.own]
        self.input_bias = self.input_bias[rows]


class T5Decoder:
    """One batch of outputs in the making, by a T5. `student`: its `is_word` and `fed` say what the decoder is fed."""

    def __init__(self, student, sources, mask):
        self.student, self.t5, self.mask = student, student.t5, mask
        self.read = self.t5.encode(sources, mask)
        self.memory = Memory(self.t5, self.read, mask, room=2 * sources.shape[1])
        self.tokens = torch.zeros(len(mask), 0, dtype=torch.long, device=mask.device)

    def feed(self, new):
        """Feed every row its new token; returns a function of rows (n) and candidates (n, K): their logits."""
        tokens = torch.tensor(new, device=self.mask.device)[:, None]
        self.tokens = torch.cat([self.tokens, tokens], 1)
        copied = self.student.is_word(self.tokens).sum(1, keepdim=True)
        states = self.t5.decode(self.student.fed(tokens, copied, self.read, self.mask), self.memory)
        return lambda rows, ids: candidate_logits(states[rows, -1], self.t5.output_matrix, ids)

    def keep(self, rows):
        self.read, self.mask, self.tokens = self.read[rows], self.mask[rows], self.tokens[rows]
        self.memory.keep(rows)
