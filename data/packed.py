"""Decoding with a causal LM: many sequences at a time, packed, with a shared prompt and a rolling batch.

What t5.py is for a T5. transformers' model does all but attention, which it asks of the decoder through its attention interface.
"""
import torch
import transformers

from data.decoding import candidate_logits, choose, softcapped
from data.models import autocast
from data.splits import DataError

HELD = 100_000          # so many tokens' keys and values are meant to be in memory at a time: 4 GB for the 270M LLM in fp32


class PackedDecoder:
    """Decoding of many sequences with a causal LM: packed, with a shared prompt and a rolling batch.

    Five techniques:
    - *Packed*: the new tokens of all sequences stand in one row without padding, so the linear layers, where nearly all
      the time goes, see only real tokens. A prompt of 40 tokens, three forced tokens of a long word, and a single bracket
      go through the model in the same pass.
    - *Shared prompt*: the keys and values of the few-shot prompt are computed once and kept once, not once a sequence.
    - *In place*: a token attends to its row's keys and values where these stand; they are not gathered for every token.
    - *Read once*: of several outputs of one sentence (`--samples`) the first reads it, the others copy its keys and values.
    - *Rolling*: a finished sequence leaves at once and a waiting one takes its place.
    (With the 270M LLM on two cores: packed 1.7 times as fast as padded, 64 sequences at a time 2.4 times as fast as 8, a word's forced
    tokens in one pass 1.1, in place 1.2 with 65 words a sentence, four outputs of a sentence that is read once 1.3; rolling hardly counts.)
    `model`: any of transformers' causal LMs that calls the attention interface with its keyword arguments; DataError for another. `rows`:
    how many sequences are decoded at a time, at most. `prompt`: token ids that go before each of them.
    """

    def __init__(self, model, rows=128, prompt=()):
        self.model, self.rows, self.used = model, rows, rows
        self.keys, self.values = {}, {}                 # per layer: (rows, key-value heads, length, head size)
        self.prompt_keys, self.prompt_values = {}, {}   # per layer: (key-value heads, prompt length, head size)
        self.prompt_length = 0
        model.set_attn_implementation("packed")
        self.config = model.config.get_text_config()
        other_layers = set(getattr(self.config, "layer_types", None) or []).difference(("full_attention", "sliding_attention"))
        if model.config._attn_implementation != "packed" or other_layers:
            raise DataError(f"{model.config.model_type}: expected a causal LM whose layers mix tokens by attention alone, through "
                            "transformers' attention interface")
        scales = [getattr(self.config, name, 1) for name in ("logit_scale", "logits_scaling")]            # Cohere's, Granite's
        if getattr(model.get_output_embeddings(), "bias", None) is not None or scales != [1, 1]:          # Phi's
            raise DataError(f"{model.config.model_type}: expected a causal LM whose logits are states times output matrix, and no more")
        for begin in range(0, len(prompt), 128):
            chunk = list(prompt[begin:begin + 128])
            self.feed([0] * len(chunk), range(len(chunk)), chunk)
            for layer in self.keys:
                for kept, new in ((self.prompt_keys, self.keys), (self.prompt_values, self.values)):
                    part = new[layer][0, :, :len(chunk)].clone()
                    kept[layer] = torch.cat([kept[layer], part], 1) if layer in kept else part
            self.prompt_length += len(chunk)

    @torch.inference_mode()
    def feed(self, rows, positions, tokens):
        """Run the model on `tokens`, each at its row and its position after the prompt; returns their hidden states."""
        device = self.model.device
        self.row = torch.tensor(rows, device=device)
        self.position = torch.tensor(positions, device=device)
        self.arrange(rows)
        self.seen_in = {}                                               # window -> mask
        with autocast(device):
            return self.model.base_model(
                input_ids=torch.tensor([tokens], device=device), position_ids=self.position[None] + self.prompt_length,
                use_cache=False, packed=self).last_hidden_state[0]

    def attend(self, layer, query, key, value, scaling, window, cap=None):
        """Attention of N packed tokens, each to the prompt and to what its own row holds so far. query: (N, heads, size), as what is
        returned; key, value: (N, key-value heads, size)."""
        length = int(self.position.max()) + 1
        query, key = query.to(value.dtype), key.to(value.dtype)         # rotated in fp32, but multiplied in the type of `value`
        own_keys, own_values = (self.stored(store, layer, new, length) for store, new in ((self.keys, key), (self.values, value)))
        grouped = query.unflatten(1, (key.shape[1], -1))                                    # (N, kv heads, group, size)
        scores = self.with_own(grouped, own_keys.transpose(2, 3))
        # Of the prompt, only what the layer's window lets somebody see: with 20 trees that is the last third.
        seen = min(self.prompt_length, window - 1) if window else self.prompt_length
        if seen:
            scores = torch.cat([self.with_prompt(grouped, self.prompt_keys[layer][:, -seen:].transpose(1, 2)), scores], -1)
        scores = softcapped(scores.float() * scaling, cap)
        weights = scores.masked_fill(~self.visible(window, seen, length), -torch.inf).softmax(-1).to(query.dtype)
        out = self.with_own(weights[..., seen:], own_values)
        if seen:
            out = out + self.with_prompt(weights[..., :seen], self.prompt_values[layer][:, -seen:])
        return out.flatten(1, 2)

    def stored(self, store, layer, new, length):
        """All rows' keys, or values, up to `length`, with the new ones. The store doubles, up to HELD: hardly a copy a token."""
        if layer not in store:
            store[layer] = new.new_zeros(self.used, new.shape[1], length, new.shape[2])
        elif store[layer].shape[2] < length:
            have, most = store[layer].shape[2], HELD // self.used
            room = max(length, min(2 * have, most)) if length <= most else length + length // 8
            store[layer] = torch.nn.functional.pad(store[layer], (0, 0, 0, room - have))
        store[layer][self.row, :, self.position] = new
        return store[layer][:, :, :length]

    def arrange(self, rows):
        """Put the new tokens in order by the rows in which they stand. `blocks`: of each block its rows and which tokens stand in them,
        (R, width). Most rows have one or two, so the first block holds two of every row (where there is one, the same twice), and what else
        a row has is a block of its own. `order`: where each token is then found, all blocks one behind the other."""
        places = {}
        for place, row in enumerate(rows):
            places.setdefault(row, []).append(place)
        every = sorted(places)
        # Where all rows are in use, as they mostly are, a slice of what is stored will do, and nothing is copied.
        which = slice(len(every)) if every[-1] < len(every) else torch.tensor(every, device=self.row.device)
        blocks = [(which, [(places[row] * 2)[:2] for row in every])]
        blocks += [(slice(row, row + 1), [places[row][2:]]) for row in every if len(places[row]) > 2]
        found = {place: n for n, place in enumerate(place for _, block in blocks for row in block for place in row)}
        self.order = torch.tensor([found[place] for place in range(len(rows))], device=self.row.device)
        self.blocks = [(which, torch.tensor(block, device=self.row.device)) for which, block in blocks]

    def with_own(self, tokens, own):
        """Each token (N, kv heads, group, …) times what its own row holds (rows, kv heads, …, …)."""
        products = []
        for rows, places in self.blocks:
            together = tokens[places].transpose(1, 2).flatten(2, 3) @ own[rows]             # (R, kv heads, width * group, …)
            products.append(together.unflatten(2, (places.shape[1], -1)).transpose(1, 2).flatten(0, 1))
        return torch.cat(products)[self.order]

    def with_prompt(self, tokens, prompt):
        """All tokens (N, kv heads, group, …) times the one prompt (kv heads, …, …): one product, where a prompt in every row would
        take N small ones."""
        together = tokens.transpose(0, 1).flatten(1, 2) @ prompt                            # (kv heads, N * group, …)
        return together.unflatten(1, (len(tokens), -1)).transpose(0, 1)

    def visible(self, window, seen, length):
        """(N, 1, 1, seen + length): what of the prompt and of its own row each token may see; the same in all such layers."""
        if window not in self.seen_in:
            behind = self.position[:, None] + seen - torch.arange(seen + length, device=self.position.device)
            self.seen_in[window] = ((behind >= 0) & (behind < (window or len(behind[0]) + 1)))[:, None, None]
        return self.seen_in[window]

    @torch.inference_mode()
    def copy_row(self, source, row, length):
        """Let `row` hold the first `length` tokens of the row `source`; returns `length`."""
        for stored in (*self.keys.values(), *self.values.values()):
            stored[row, :, :length] = stored[source, :, :length]
        return length

    def logits_of(self, states):
        """A function from candidates (N, K) to their logits after `states` (N, size)."""
        cap = getattr(self.config, "final_logit_softcapping", None)
        return lambda ids: candidate_logits(states, self.model.get_output_embeddings().weight, ids, cap)

    def rows_for(self, length):
        """How many sequences of `length` tokens, an input's own and its output's, are decoded at a time. (The prompt is held once.)"""
        return max(1, min(self.rows, HELD // length))

    def run(self, cursors, prompts, end, admit=256, used=None):
        """Decode, as `choose` says; yields the index of each cursor when it is done. Longest prompts first is best: the end is then short.

        `prompts`: what follows the shared prompt in each cursor's sequence, lists of token ids. `end`: as in `choose`. `admit` bounds the
        prompt tokens that one pass takes in, and so its memory: a longer prompt takes several. `used`: at most so
        many of the decoder's rows are in use at a time (None: all).
        """
        prompts = [tuple(prompt) for prompt in prompts]
        self.used, self.keys, self.values = used or self.rows, {}, {}
        yield from (index for index, cursor in enumerate(cursors) if cursor.done)      # nothing to choose: one word
        waiting = [index for index, cursor in enumerate(cursors) if not cursor.done][::-1]
        active, length, held = {}, {}, {}                           # row -> cursor's index, tokens that it holds, prompt that it holds
        while waiting or active:
            reading = {prompts[index]: len(prompts[index]) - length[row] for row, index in active.items()
                       if length[row] < len(prompts[index])}        # prompts that this pass takes in, and of how many tokens
            fresh = sum(reading.values())
            for row in (row for row in range(self.used) if row not in active):
                # One whose prompt is just being read waits for the next pass, and then copies it.
                index = next((index for index in reversed(waiting) if prompts[index] not in reading), None)
                if index is None:
                    break
                prompt, source = prompts[index], next((other for other in held if held[other] == prompts[index]), None)
                if source is None:
                    if fresh and fresh + len(prompt) > admit:
                        break
                    fresh += len(prompt)
                    reading[prompt] = len(prompt)
                waiting.remove(index)
                active[row], held[row] = index, prompt
                length[row] = 0 if source is None else self.copy_row(source, row, max(0, len(prompt) - 1))
            rows, positions, tokens, last = [], [], [], {}          # row -> where the last of its new tokens stands
            for row, index in active.items():
                new = prompts[index][length[row]:]
                if len(new) > admit:
                    new = new[:admit]
                else:
                    new = [*new, *cursors[index].queue]
                    cursors[index].queue = []
                    last[row] = len(tokens) + len(new) - 1
                rows += [row] * len(new)
                positions += range(length[row], length[row] + len(new))
                tokens += new
                length[row] += len(new)
            hidden = self.feed(rows, positions, tokens)[list(last.values())]
            if last:
                choose([cursors[active[row]] for row in last], self.logits_of(hidden), end)
            for row in [row for row in last if cursors[active[row]].done]:
                yield active.pop(row)


def _packed_attention(module, query, key, value, attention_mask, scaling=None, sliding_window=None, softcap=None, packed=None,
                      s_aux=None, **_):
    if packed is None or s_aux is not None:
        raise DataError(f"{module.config.model_type}: expected a causal LM that hands keyword arguments on to its attention, and without "
                        "attention sinks")
    query, key, value = (x[0].transpose(0, 1) for x in (query, key, value))                 # (N, heads, size)
    scaling = scaling or query.shape[-1] ** -0.5
    return packed.attend(module.layer_idx, query, key, value, scaling, sliding_window, softcap)[None], None


transformers.AttentionInterface.register("packed", _packed_attention)
