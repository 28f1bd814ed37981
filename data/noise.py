"""Gold with noise, for teaching and tests: what an LLM's mistakes look like when they are made to measure."""
from data.trees import bare_spans, crosses, read_tree, split_words, write_bare


def noisy(task, input, gold, rate, rng):
    """`gold`, a str, with errors at `rate`, from 0 to 1, drawn from `rng`, a random.Random.

    tree: every bracket but the whole sentence's is, at this rate, taken away or moved by a word at one end (where that crosses no
    other). slots: every slot is taken away, given a name at random (its own, too) or cut by its last word. text: every word is taken
    away or doubled; the first stays where none would.
    """
    return {"tree": _noisy_tree, "slots": _noisy_slots, "text": _noisy_text}[task.kind](task, input, gold, rate, rng)


def _noisy_tree(task, input, gold, rate, rng):
    words = split_words(input)
    whole, *spans = bare_spans(read_tree(gold, words))
    kept = set(spans)
    for start, end in spans:
        if rng.random() < rate:
            kept.discard((start, end))
            moved = rng.choice([None, (start - 1, end), (start + 1, end), (start, end - 1), (start, end + 1)])
            if moved and moved[0] >= 0 and moved[1] <= len(words) and moved[1] - moved[0] > 1 and not crosses(moved, kept):
                kept.add(moved)
    return write_bare(words, sorted(kept | {whole}, key=lambda span: (span[0], -span[1])))


def _noisy_slots(task, input, gold, rate, rng):
    tags = task.mended(task.read_tags(input, gold)).split(" ")
    names = sorted({tag[2:] for tag in task.tags if tag != "O"})
    for begin in [i for i, tag in enumerate(tags) if tag.startswith("B-")]:
        end = begin + 1
        while end < len(tags) and tags[end] == f"I-{tags[begin][2:]}":
            end += 1
        if rng.random() < rate:
            how = rng.choice(["away", "cut", "rename"] if names else ["away", "cut"])
            if how == "away":
                tags[begin:end] = ["O"] * (end - begin)
            elif how == "rename":
                name = rng.choice(names)
                tags[begin:end] = [f"{tag[:2]}{name}" for tag in tags[begin:end]]
            else:
                tags[end - 1] = "O"
    return " ".join(tag if tag in task.tags else "O" for tag in tags)


def _noisy_text(task, input, gold, rate, rng):
    words = []
    for word in split_words(gold):
        words += [word] if rng.random() >= rate else rng.choice([[], [word, word]])
    return " ".join(words or split_words(gold)[:1])
