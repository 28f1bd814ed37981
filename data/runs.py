"""A run's folder: its name, its opening or refusal, its log, its final table.

    runs/NAME/config.json            every setting, versions, git commit, data fingerprint
             log.jsonl               one JSON object per epoch, per student and per call of the teacher
             pseudolabels/           stage0.jsonl, stage1.jsonl, …: {"input", "output", "score"} a line, in the split's order
             students/               every student's labels, from which an interrupted run goes on
             final/                  the last student: its weights (safetensors), its tokenizer
             results.json, report.md
"""
import json
import platform
import subprocess
from pathlib import Path

import torch
import transformers

from data.splits import DataError, write_atomically


def run_folder(settings, data):
    """Where a run with these mckd.Settings goes: --out, else a name that tells runs apart. `data`: the folder that was loaded."""
    if settings.out:
        return Path(settings.out)
    trained = settings.method != "teacher"
    parts = ["-".join(data.parts[-2:]) if data.name == "real" else data.resolve().name]
    parts += [f"{settings.method}{settings.stages}" if settings.method in ("mckd", "own") else settings.method]
    teacher = "tuned-" * settings.teacher.startswith("tuned:") + Path(settings.teacher.removeprefix("tuned:")).name
    parts += [teacher] * (settings.method != "sft") + [settings.student] * trained
    optional = ("free", "votes", "labeled", "gold_epochs", "unlabeled", "test", "max_words", "epochs", "batch_size", "lr")
    changed = {name: getattr(settings, name) for name in optional if getattr(settings, name) != getattr(type(settings), name)}
    parts += [name if value is True else f"{name}{value}" for name, value in changed.items()]
    return Path("runs") / "-".join(Path(part).name.replace(":", "-") for part in [*parts, f"seed{settings.seed}"])


def open_folder(folder, settings, device):
    """Make the run's folder, or find it as a run with the same `settings` (a dict) left it. DataError where others made it."""
    file = folder / "config.json"
    if (folder / "results.json").exists() or any((folder / "students").glob("*.jsonl")):        # there is work to keep
        found = json.loads(file.read_text(encoding="utf-8"))["settings"]
        differences = [f"{name} {found.get(name)!r} there, {value!r} here" for name, value in settings.items() if found.get(name) != value]
        if differences:
            raise DataError(f"{folder} was made with other settings: {'; '.join(differences)}; give another --out, or delete it")
    else:
        versions = {"python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__}
        about = {"settings": settings, "versions": versions, "git_commit": git_commit(), "device": str(device)}
        (folder / "students").mkdir(parents=True, exist_ok=True)
        (folder / "pseudolabels").mkdir(exist_ok=True)
        write_atomically(file, json.dumps(about, indent=2) + "\n")
    log = folder / "log.jsonl"
    log.touch()                                         # a run whose labels are all known logs nothing
    if (events := log.read_bytes()) and not events.endswith(b"\n"):                            # cut off by a crash
        write_atomically(log, events[:events.rfind(b"\n") + 1])


def git_commit():
    """The commit of this checkout; None where there is none, or no git."""
    try:
        found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True)
    except OSError:
        return None
    return found.stdout.strip() or None


def log_event(folder, event):
    """Append a JSON object to log.jsonl."""
    with open(folder / "log.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(event) + "\n")


def logged_seconds(folder, student=None):
    """What the log says that this student, or the teacher and all students, took; interrupted work is not counted."""
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").split("\n")
    events = [json.loads(line) for line in lines if line.endswith("}")]
    counted = [x for x in events if x["event"] in ("student", "teacher") and student in (None, x.get("student"))]
    return round(sum(x["seconds"] for x in counted), 1)


def table(results):
    """The final table, in Markdown: the teacher, each stage's students, the final one."""
    def row(name, *cells):
        shown = ["–" if cell is None else f"{cell:.1f}" if isinstance(cell, float) else str(cell) for cell in cells]
        return f"| {name:<13} | " + " | ".join(f"{cell:>10}" for cell in shown) + " |"
    lines = [row("", "trained on", "label F1", "agreement", "test F1", "valid (%)", "seconds"), "|---|" + "---:|" * 6]
    if results["method"] != "sft":
        lines.append(row("teacher", None, None, None, results["teacher"]["f1"], results["teacher"]["valid"], None))
    for stage in results["stages"]:
        for student in stage["students"]:
            lines.append(row(student["name"].replace("_", " "), student["trained_on"], stage["pseudolabel_f1"], stage["agreement"],
                             student["test_f1"], student["valid"], student["seconds"]))
    return "\n".join(lines)
