"""A probabilistic grammar of biomedical English, and the sample in data/craft/ that it generates.

    python data/grammar.py                           # writes the committed files again, byte for byte
    python data/grammar.py --out /tmp/more --seed 1  # other sentences of the same language

Real corpora need a download; this sample lets every command run at once. Its sentences mean little, but their structure is
learnable and not trivial, because most of it hangs on words, as in English:

    We (treated (the mutant mice) (with tamoxifen)).         `treat` takes `with`: the phrase belongs to the verb
    We (studied ((mutant mice) (with severe anemia))).       `study` does not: it belongs to the noun
    (((bone marrow) cells)   but   (mutant germ cells)       some compounds begin with a compound of their own

Treebanks split attachments the same way, but never so regularly: scores on this sample say whether the method runs and
where it goes, not how well it parses real articles.
"""

import random
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # so that `python data/grammar.py` finds the package `data`, from any folder

from data.command import CommandLine, run_command  # noqa: E402
from data.splits import DataError, check_least, write_atomically, write_jsonl  # noqa: E402
from data.trees import Tree, unescape, write_penn  # noqa: E402

TASK = """{
  "task": "tree",
  "name": "craft",
  "sample": true,
  "source": "synthetic: data/grammar.py",
  "instruction": "Bracket the constituents of the sentence: put every phrase between brackets, without labels, and keep all words in order."
}
"""
SIZES = {"labeled": 50, "unlabeled": 1000, "valid": 100, "test": 300}
WORDS = range(4, 23)   # shorter and longer sentences are thrown away
BUDGET = 10            # levels of a derivation; where it runs out, only the rules that end soon are left
HELD_OUT_SHARE = 0.05  # of the words in test, where a class has some that are held out for it

# ---------------------------------------------------------------------------------------------------------------------
# The rules in craft/grammar.txt and the words in craft/lexicon.txt, each file with its notation at its head, read.

# Forms that the spelling rules of `inflect` would get wrong.
IRREGULAR = {
    "NNS": {"mouse": "mice", "analysis": "analyses", "locus": "loci"},
    "VBZ": {"have": "has"},
    "VBD": {"find": "found", "keep": "kept", "lead": "led", "have": "had"},
    "VBN": {"find": "found", "keep": "kept"},
}


def read_rules(text: str) -> dict[str, list[tuple[float, list]]]:
    """{symbol: [(weight, items), ...]}. An item is (symbol or label, items of its own if it is a bracket, optional)."""
    rules: dict[str, list] = {}
    for head, ways in re.findall(r"^(\S+) ->((?:.*\n)(?: .*\n)*)", text, flags=re.MULTILINE):
        for way in ways.split("|"):
            weight, body = way.split(maxsplit=1)
            numbers = ("sg", "pl") if "#" in head + body else ("",)
            for number in numbers:
                share = float(weight) if "#" in head else float(weight) / len(numbers)
                rules.setdefault(_agree(head, number), []).append((share, _read_items(_agree(body, number))))
    return rules


def _agree(text: str, number: str) -> str:
    noun, verb = ("NN", "VBZ") if number == "sg" else ("NNS", "VBP")
    return text.replace("N#", noun).replace("V#", verb).replace("#", number)


def _read_items(body: str) -> list:
    stack: list[list] = [[]]
    for token in re.findall(r"\)|[^\s)]+", body):
        if token.startswith("("):
            items: list = []
            stack[-1].append((token[1:], items, False))
            stack.append(items)
        elif token == ")":
            stack.pop()
        else:
            stack[-1].append((token.removesuffix("?"), None, token.endswith("?")))
    return stack[0]


def read_lexicon(text: str) -> dict[str, tuple[list[str], list[str]]]:
    """{class: (its words, those held out for test)}."""
    lexicon = {}
    for name, words in re.findall(r"(\w+): ([^:;]*)(?:;|\n(?! )|$)", text):
        known, _, held_out = words.partition("|")
        lexicon[name] = known.split(), held_out.split()
    return lexicon


RULES, LEXICON = (re.sub("^#.*\n", "", (ROOT / "data" / "craft" / name).read_text(encoding="utf-8"), flags=re.MULTILINE)
                  for name in ("grammar.txt", "lexicon.txt"))
GRAMMAR, CLASSES = read_rules(RULES), read_lexicon(LEXICON)


def inflect(word: str, tag: str) -> str:
    """The form of a noun or a verb that a Penn tag asks for: inflect("carry", "VBZ") is "carries"."""
    if word in IRREGULAR.get(tag, {}):
        return IRREGULAR[tag][word]
    if tag in ("NNS", "VBZ", "VBD", "VBN"):
        stem = re.sub("(?<=[^aeiou])y$", "i", word)  # carry, carries; but assay, assays
        if tag in ("VBD", "VBN"):
            return stem.removesuffix("e") + "ed"
        return stem + ("es" if stem != word or re.search("(s|x|z|ch|sh)$", word) else "s")
    return word.removesuffix("e") + "ing" if tag == "VBG" else word


# ---------------------------------------------------------------------------------------------------------------------
# From rules to sentences

def heights() -> dict[str, int]:
    """How many levels of rules the shallowest derivation of each symbol needs. Told that, no derivation can get stuck."""
    height = {symbol: float("inf") for symbol in GRAMMAR}
    while True:
        lower = {symbol: 1 + min(_height(items, height) for _, items in ways) for symbol, ways in GRAMMAR.items()}
        if lower == height:
            return height
        height = lower


def _height(items: list, height: dict[str, int]) -> int:
    return max(_height(inner, height) if inner else height.get(symbol, 0) for symbol, inner, _ in items)


HEIGHTS = heights()


def generate(rng: random.Random, held_out: bool = False) -> Tree:
    """One sentence. With `held_out`, the words that are reserved for test may occur."""
    words: list[str] = []
    tags: list[str] = []
    spans: list[list] = []

    def expand(symbol: str, budget: int) -> None:
        ways = [(weight, items) for weight, items in GRAMMAR[symbol] if _height(items, HEIGHTS) < budget]
        [(_, items)] = rng.choices(ways, [weight for weight, _ in ways])
        label = symbol.split("_")[0]
        same = len(items) == 1 and items[0][1] is None and items[0][0].split("_")[0] == label
        bracket("" if same else label, items, budget - 1)

    def bracket(label: str, items: list, budget: int) -> None:
        if label:
            span = [label, len(words), None]
            spans.append(span)
        for symbol, inner, optional in items:
            if optional and rng.random() < 0.5:
                continue
            if inner is not None:
                bracket(symbol, inner, budget)
            elif symbol in GRAMMAR:
                expand(symbol, budget)
            else:
                tag, word = leaf(symbol)
                tags.append(tag)
                words.append(word)
        if label:
            span[2] = len(words)

    def leaf(symbol: str) -> tuple[str, str]:
        if "_" not in symbol:  # IN/with, or a mark, which is its own tag
            tag, _, word = symbol.partition("/")
            return tag, unescape(word or tag)
        tag, name = symbol.split("_")
        prefix = "N" if tag in ("NN", "NNS") else "V" if tag.startswith("VB") else tag
        known, reserved = CLASSES[f"{prefix}_{name}"]
        if held_out and reserved and rng.random() < HELD_OUT_SHARE:
            return tag, inflect(rng.choice(reserved), tag)
        # Frequencies fall with the rank, as in any language: some words are rare in 1,000 sentences.
        return tag, inflect(rng.choices(known, [1 / (rank + 5) for rank in range(len(known))])[0], tag)

    expand("_sentence", BUDGET)
    for position, word in enumerate(words[:-1]):
        if word == "a" and re.match("[aeiouAEIOU]", words[position + 1]):
            words[position] = "an"
    if re.fullmatch("[a-z]+(-[a-z]+)*", words[0]):  # p53 and mRNA stay as they are
        words[0] = words[0][0].upper() + words[0][1:]
    return Tree(words, tags, [tuple(span) for span in spans])


def sample(seed: int = 0) -> dict[str, list[dict[str, str]]]:
    """The rows of every split, no sentence twice, the same ones for the same seed."""
    splits: dict[str, list] = {}
    seen = set()
    for split, size in SIZES.items():
        rng = random.Random(f"{split} {seed}")
        rows = splits[split] = []
        while len(rows) < size:
            tree = generate(rng, held_out=split == "test")
            sentence = " ".join(tree.words)
            silly = re.search(r"\b(\S+) (and|or|,) \1\b|sing .* using", sentence)  # lung and lung sections
            if len(tree.words) in WORDS and not silly and sentence.lower() not in seen:
                seen.add(sentence.lower())
                rows.append({"input": sentence, "output": write_penn(tree)})
    return splits


def main() -> None:
    parser = CommandLine(prog="python data/grammar.py", description=__doc__)
    parser.add_argument("--out", type=Path, help="folder to write (default: data/craft, with seed 0)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="which sentences (default: 0, the committed ones)")
    options = parser.parse_args()
    check_least("--seed", options.seed, 0)                              # random takes its absolute value
    out = options.out or ROOT / "data" / "craft"
    if options.seed and out.resolve() == ROOT / "data" / "craft":       # it has pseudolabels of the committed sentences
        raise DataError(f"--seed {options.seed}: expected --out DIR beside it, another folder than data/craft")
    task = out / "task.json"
    others = [] if task.exists() else list(out.glob("*.jsonl"))
    if others or task.exists() and task.read_bytes() != TASK.encode():
        raise DataError(f"{out}: expected an empty folder or one of grammar.py's, found data that it did not make; choose another --out")
    splits = sample(options.seed)
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(task, TASK)                            # first: it lets this command write here again, after a crash too
    for split in splits:
        (out / f"{split}.jsonl").unlink(missing_ok=True)
    for split, rows in reversed(splits.items()):            # labeled.jsonl last: without it this is no data folder
        write_jsonl(out / f"{split}.jsonl", rows)
    for split, rows in splits.items():
        lengths = [len(row["input"].split(" ")) for row in rows]
        print(f"{split:10} {len(rows):5,} sentences of {min(lengths)} to {max(lengths)} words, "
              f"{sum(lengths) / len(lengths):.1f} on average")
    words = {word.lower() for rows in splits.values() for row in rows for word in row["input"].split(" ")}
    print(f"{len(words):,} different words in {out}")


if __name__ == "__main__":
    run_command(main)
