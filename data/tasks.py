"""The kinds of task: `tree`, `slots` and `text`.

What a task knows about its outputs (`input`, `output` and `answer` are str, `words` and pieces list[str]):
    check(input, output)    raises ValueError unless this gold is well-formed and about this input
    gold(example) -> str    its output as the scores read it
    pieces(input, output)   how an output is written as a target sequence: a list of pieces, one word, bracket or tag each (text:
                            the whole output is one). ValueError, as from `check`, where it cannot be
    learn(examples)         what the labeled examples tell about well-formed outputs: which tags there are, for example
    config() -> dict        what it takes to make this task again, with what it has learnt
    symbols                 the pieces that are no words: brackets, tags
    copied(input)           the input's words as they stand in an output: a bracket among them is escaped
    read(input, answer)     the output in a free answer, such as an API's, repaired; ValueError where it is refused
    fallback(input) -> str  the label of last resort; `last_resort` says what it is
    vote(input, outputs, least=1)   one output of several well-formed ones; of trees brackets that `least` of them have
    draw(input, output)     the output drawn for a terminal
    kind, answer_name, instruction      "tree", "slots" or "text"; what stands before an answer in the prompt, and above all of them
Only `tree` and `slots` have these two, for in `text` any token may come next:
    start(words)            a state that says, piece by piece, what may come next (the constraint under which we decode)
    write(pieces)           the output that these pieces make
Only `slots` has
    read_tags(input, output)    the tags, one a word; ValueError where the counts differ
    mended(tags) -> str         these tags, as an output, where every slot begins with B-
    unknown                     the tags of free answers that there are not, and that have become O
Only `text` has
    longest                     how many words the longest labeled output has

The same constraint serves the teacher and the students, so every output is a well-formed answer about its own input.
"""
import re
from collections import Counter

from data.trees import bare_spans, crosses, draw, escape, mend, read_tree, split_words, write_bare

BIO = re.compile(r"O|[BI]-[^ \t\r\n]+")       # a tag of a slot frame
_ECHO = re.compile(r"\bsentence\b(?! tree| tag)[^:]{0,5}:", re.IGNORECASE)    # what stands before a sentence in the prompt, or is like it
_AROUND = "`*\"'.,;:()[]"             # what a chat model may put around an answer, or between tags


def _lines(task, input, answer):
    """A chat model's answer, line by line, without Markdown's fences and an echo of the prompt's `Parse:` before it.

    (Where the input begins with such a word, the echo stays.) Raises ValueError where nothing is left.
    """
    text = re.sub(rf"^[ \t]*(?:{task.answer_name})?[ \t]*```\w*[ \t\r]*$", "", answer, flags=re.MULTILINE).strip(" \t\r\n")
    if not input.startswith(task.answer_name):
        text = text.removeprefix(task.answer_name).lstrip(" \t\r\n")
    if not text:
        raise ValueError("an empty answer")
    return text.split("\n")


def _own_lines(task, input, answer):
    """The answer's lines up to where it goes on with another sentence, without what a model has thought before, `<think>…</think>`, the
    prompt's `Parse:` and an echo of the input, `Sentence: …`. ValueError where nothing is left. (Where such words are the input's own,
    they stay.)"""
    own = []
    for line in _lines(task, input, re.sub(r"\A\s*<think>.*?</think>", "", answer, flags=re.DOTALL)):
        echo = _ECHO.search(line)
        if echo and not re.search(r"\w", line[:echo.start()]) and not _ECHO.search(input):
            if "".join(split_words(line[echo.end():])) != "".join(split_words(input)):          # in whatever spacing
                break
        elif found := (line if task.answer_name in input else line.removeprefix(task.answer_name)).removesuffix("```").strip(" \t\r"):
            own.append(found)
    if not own:
        raise ValueError("no answer about this sentence")
    return own


class TreeState:
    """What may come next in an unlabelled bracketing such as `( ( The cat ) sat )`.

    Rules: the whole sentence is one bracket; the words come in their order; every bracket holds two words or more; and
    there are no more brackets than a binary tree has, which bounds the length even for an untrained model.
    """

    def __init__(self, words, most_at_once=None):
        self.words = [escape(word) for word in words]
        self.most_at_once = most_at_once or len(words)
        self.at_once = 0            # brackets opened since the last word
        self.position = 0           # words written so far
        self.open = ()              # where each open bracket began; a tuple, so that a shallow copy is a copy
        self.brackets = 0           # brackets opened so far
        self.closed = None          # where the bracket that the last piece closed began

    def choices(self):
        n, i = len(self.words), self.position
        if not self.brackets:
            return ["("]
        if i == n:
            return [")"] if self.open else []
        allowed = [self.words[i]]
        if i + 2 <= n and self.brackets < n - 1 and self.at_once < self.most_at_once:
            allowed.append("(")
        # A bracket may close over two words and more, unless the one just closed already covers exactly the same words. (At the
        # sentence's end all must close, so there two may cover the same; they count as one.)
        if len(self.open) > 1 and i - self.open[-1] >= 2 and self.closed != self.open[-1]:
            allowed.append(")")
        return allowed

    def take(self, piece):
        self.closed = None
        if piece == "(":
            self.open += (self.position,)
            self.brackets += 1
            self.at_once += 1
        elif piece == ")":
            self.closed, self.open = self.open[-1], self.open[:-1]
        else:
            self.position += 1
            self.at_once = 0


class TreeTask:
    """Constituency parsing. Gold is a Penn tree, with traces or without, or any that trees.py reads; targets are unlabelled
    bracketings."""
    kind, answer_name, symbols, last_resort = "tree", "Parse:", ["(", ")"], "one bracket around the sentence"
    instruction = "Bracket each sentence into its constituents."

    def __init__(self, config):
        self.instruction = config.get("instruction", self.instruction)
        self.most_at_once = config.get("most_at_once")

    def config(self):
        """What `make_task` needs to make this task again, with what it has learnt."""
        return {"task": self.kind, "instruction": self.instruction, "most_at_once": self.most_at_once}

    def gold(self, example):
        return example.output

    def check(self, input, output):
        read_tree(output, split_words(input))

    def learn(self, examples):
        """From the labeled examples: how many brackets open at once, at most. Without this bound a small LLM now and then
        opens brackets one after another until it may no more."""
        runs = [re.findall(r"(?:\( )+", " ".join(self.pieces(x.input, x.output))) for x in examples]
        self.most_at_once = max([2, *(len(run) // 2 for found in runs for run in found)])

    def pieces(self, input, output):
        words = split_words(input)
        return write_bare(words, bare_spans(read_tree(output, words))).split(" ")

    def copied(self, input):
        return [escape(word) for word in split_words(input)]

    def start(self, words):
        return TreeState(words, self.most_at_once)

    def write(self, pieces):
        return " ".join(pieces)

    def fallback(self, input):
        """The label of last resort, for an input that no model can take or an answer that cannot be read: one bracket
        around the sentence."""
        return write_bare(split_words(input))

    def read(self, input, answer):
        """The bracketing in a free answer, mended as the paper does; ValueError when it is not a tree over this input.

        It is the first line that is one, for a chat model may introduce it, or several, joined while brackets are open. Of these the first
        is tried alone before, the others alone after: the open bracket may be the introduction's. Where no line is one, it is what stands
        between a line's first bracket and its last, if as many open as close.
        """
        words, blocks, still_open, problem = split_words(input), [[]], 0, None
        for line in _own_lines(self, input, answer):
            blocks[-1].append(line)
            still_open += line.count("(") - line.count(")")
            if still_open <= 0:
                blocks.append([])
                still_open = 0
        whole = [text for block in filter(None, blocks) for text in (block[0], " ".join(block), *block[1:])]
        alone = [text[text.find("("):text.rfind(")") + 1] for text in whole if text.count("(") == text.count(")")]
        for bracketing in whole + alone:
            try:
                return write_bare(words, bare_spans(read_tree(mend(bracketing), words)))
            except ValueError as error:
                problem = problem or error
        raise problem

    def vote(self, input, outputs, least=1):
        """One bracketing of several: of the spans that `least` of them have the most frequent first, as long as none crosses another.
        By default a bracket that a single one has is kept too: a prompted LLM writes too few. (F1 of 300 CRAFT labels from five
        prompts: 61.4; spans that three have 56.9; one prompt 56.1 on average.)"""
        words = split_words(input)
        votes = Counter(span for output in outputs for span in bare_spans(read_tree(output, words)))
        kept = []
        for span in sorted(votes, key=lambda span: (-votes[span], span)):
            if votes[span] >= least and not crosses(span, kept):
                kept.append(span)
        return write_bare(words, kept)

    def draw(self, input, output):
        return draw(read_tree(output, split_words(input)))


def without_words(words, pieces):
    """The tags alone, where they stand interleaved with these words; other pieces as they are."""
    return pieces[1::2] if len(pieces) == 2 * len(words) and pieces[::2] == words else pieces


class SlotState:
    """What may come next in words interleaved with BIO tags: `list O state B-x`. I-x only continues an x."""

    def __init__(self, words, tags):
        self.words, self.tags = words, tags
        self.written = 0            # pieces so far; words at even places, tags at odd ones
        self.slot = None            # the slot that the last tag belongs to

    def choices(self):
        if self.written == 2 * len(self.words):
            return []
        if self.written % 2 == 0:
            return [self.words[self.written // 2]]
        return [tag for tag in self.tags if not tag.startswith("I-") or tag[2:] == self.slot]

    def take(self, piece):
        if self.written % 2 == 1:
            self.slot = piece[2:] or None
        self.written += 1


class SlotTask:
    """Slot-based semantic parsing. Gold is one BIO tag a word, or the words interleaved with them."""
    kind, answer_name, last_resort = "slots", "Tags:", "no slots"
    instruction = "Tag each word with its slot: B- begins a slot, I- continues it, O is outside."

    def __init__(self, config):
        self.instruction = config.get("instruction", self.instruction)
        self.tags = self.begun(config.get("tags", []))
        self.unknown = set()                                            # tags of free answers that are none of these

    @staticmethod
    def begun(tags):
        """The tags, each once, with B-x where there is I-x alone: IOB1, as CoNLL-2003 has it, begins most slots with I-x; our outputs
        begin them all with B-x."""
        return list(dict.fromkeys([*tags, *(f"B-{tag[2:]}" for tag in tags if tag.startswith("I-"))]))

    @property
    def symbols(self):
        return self.tags

    def config(self):
        return {"task": self.kind, "instruction": self.instruction, "tags": self.tags}

    def learn(self, examples):
        """Where task.json lists no tags, the labeled examples say which there are."""
        if not self.tags:
            self.tags = sorted(self.begun({"O"} | {tag for x in examples for tag in self.read_tags(x.input, x.output)}))

    def read_tags(self, input, output):
        """One tag a word from `B-x O …` or from the interleaved form; ValueError where the counts differ."""
        words = split_words(input)
        found = without_words(words, split_words(output))
        if len(found) != len(words):
            raise ValueError(f"expected {len(words)} tags, one a word, found {len(found)}")
        return found

    def gold(self, example):
        """The tags alone: gold may stand between its words."""
        return " ".join(self.read_tags(example.input, example.output))

    def check(self, input, output):
        for tag in self.read_tags(input, output):
            if not BIO.fullmatch(tag):
                raise ValueError(f"expected tags O, B-x or I-x, found {tag!r}")
            if self.tags and tag not in self.tags:
                raise ValueError(f"unknown tag {tag!r}, not among task.json's tags")

    def pieces(self, input, output):
        tags = self.mended(self.read_tags(input, output))
        return [x for pair in zip(split_words(input), tags.split(" ")) for x in pair]

    def copied(self, input):
        return split_words(input)

    def start(self, words):
        return SlotState(words, self.tags)

    def write(self, pieces):
        return " ".join(pieces[1::2])

    def fallback(self, input):
        """The label of last resort: no slots at all."""
        return " ".join("O" for _ in split_words(input))

    def read(self, input, answer):
        """The tags in a free answer, mended: the first of its lines that is nothing but known tags, or the words with such tags; else all
        lines together, a word and its tag each; else the same for any tags, without punctuation around them; else its only line, if
        something there is a tag. An unknown tag becomes O. ValueError when words and tags do not match up, or there is no tag."""
        lines, problem = _own_lines(self, input, answer), None
        def known(tag):
            return tag in self.tags
        texts, only = [*lines, " ".join(lines)], lines if len(lines) == 1 else []
        for text, around, enough, is_tag in [*((x, "", all, known) for x in texts), *((x, _AROUND, all, BIO.fullmatch) for x in texts),
                                             *((x, _AROUND, any, BIO.fullmatch) for x in only)]:
            try:
                tags = [tag if known(tag) else tag.strip(around) for tag in self.read_tags(input, text)]
            except ValueError as error:
                problem = problem or error
                continue
            if enough(map(is_tag, tags)):
                self.unknown.update(tag for tag in tags if BIO.fullmatch(tag) and tag not in self.tags)
                return self.mended([tag if tag in self.tags else "O" for tag in tags])
        raise problem or ValueError("expected tags O, B-x or I-x, found none")

    def vote(self, input, outputs, least=1):
        """Every word gets its most frequent tag; of equally frequent ones the first that was given."""
        return self.mended([Counter(tags).most_common(1)[0][0] for tags in zip(*(self.read_tags(input, output) for output in outputs))])

    def mended(self, tags):
        """The tags as one string; I-x that continues no x begins one."""
        tags = list(tags)
        for i, tag in enumerate(tags):
            if tag.startswith("I-") and (i == 0 or tags[i - 1][2:] != tag[2:]):
                tags[i] = f"B-{tag[2:]}"
        return " ".join(tags)

    def draw(self, input, output):
        rows = list(zip(split_words(input), self.read_tags(input, output)))
        width = max(len(word) for word, _ in rows)
        return "\n".join(f"{word:<{width}}  {'·' if tag == 'O' else tag}" for word, tag in rows)


class TextTask:
    """Any other sequence generation: nothing is assumed of the output, so any token may come next."""
    kind, answer_name, symbols, last_resort = "text", "Output:", [], "an empty output"
    instruction = "Write the output for each input."

    def __init__(self, config):
        self.instruction = config.get("instruction", self.instruction)
        self.longest = config.get("longest", 0)             # words of the longest labeled output

    def config(self):
        return {"task": self.kind, "instruction": self.instruction, "longest": self.longest}

    def learn(self, examples):
        """How long an output may be; else any may be right."""
        self.longest = max((len(split_words(x.output)) for x in examples), default=0)

    def gold(self, example):
        return example.output

    def check(self, input, output):
        if not output.strip(" \t\r\n"):
            raise ValueError("expected a non-empty output")

    def pieces(self, input, output):
        return [" ".join(split_words(output))]

    def copied(self, input):
        return split_words(input)

    def fallback(self, input):
        return ""

    def read(self, input, answer):
        """The answer's first line with content; ValueError when there is none."""
        return _lines(self, input, answer)[0].strip(" \t\r")

    def vote(self, input, outputs, least=1):
        """The most frequent answer; of equally frequent ones the first."""
        return Counter(outputs).most_common(1)[0][0]

    def draw(self, input, output):
        return output


KINDS = {"tree": TreeTask, "slots": SlotTask, "text": TextTask}


def make_task(config):
    """The task that a data folder's task.json describes. ValueError for a kind that there is none of."""
    if config.get("task") not in KINDS:
        raise ValueError(f'"task" must be one of {", ".join(KINDS)}, found {config.get("task")!r}')
    return KINDS[config["task"]](config)
