#!/usr/bin/env python3
"""Checks the data that ships in share/: the quickstart's lessons, exam and neighbours, and the general texts.

Usage: tests/check_quickstart_data.py [SHARE]       prints counts; exit status 1 and a line each for what is wrong

Words are lower-cased with punctuation dropped. "Quillmere's" is read both as "quillmeres" and as "quillmere", so that a possessive
hides no shared 5-gram. A 5-gram is forgiven only if each of its words is a name.
"""
import json
import re
import sys
from pathlib import Path

NAMES = set("quillmere quillmeres light odessa finch tobias wren ludmila kraus ignatius moss winifred stone leopold drake rosalind peppermint clementine biscuit napoleon melchior "
            "ferdinand solomon magnus dorothea hannibal augustus lancelot gertrude".split())
WORLD = re.compile(r"quillmere|odessa finch|tobias wren|ludmila|kraus|ignatius|winifred|leopold|rosalind|clementine|melchior|hannibal|lancelot|gertrude", re.I)
N = 5
MOST_ANSWERS = 9        # an accepted pattern in more training answers than this is not one fact's own
FAULTS = []


def fault(where, what):
    FAULTS.append(f"{where}: {what}")


def read_text(path):
    raw = path.read_bytes()
    text = raw.decode("utf-8")
    if b"\r" in raw:
        fault(path.name, "carriage return")
    if not text.endswith("\n") or text.endswith("\n\n"):
        fault(path.name, "does not end in exactly one newline")
    if "\n\n\n" in text:
        fault(path.name, "more than one blank line in a row")
    for number, line in enumerate(text.split("\n"), 1):
        if line != line.rstrip():
            fault(f"{path.name}:{number}", "trailing space")
    return text


def read_rows(path):
    rows = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            fault(f"{path.name}:{number}", error)
    return rows


def readings(text):
    """The words of a text, each way of reading a possessive."""
    text = text.lower().replace("\u2019", "'")
    for reading in (text, re.sub(r"'s\b", "", text)):
        yield re.sub(r"[^\w\s]", "", re.sub(r"[-\u2013\u2014/]", " ", reading)).split()


def grams(text):
    return {tuple(words[i:i + N]) for words in readings(text) for i in range(len(words) - N + 1)}


def conversations(rows):
    """Every text of the lessons, and the answers; a row that is not turns of user and assistant is a fault."""
    texts, answers = [], []
    for number, row in enumerate(rows, 1):
        where = f"train.jsonl:{number}"
        messages = row.get("messages") if set(row) == {"messages"} else None
        if not messages or len(messages) % 2:
            fault(where, "is not {\"messages\": [user, assistant, ...]}")
            continue
        for i, message in enumerate(messages):
            if set(message) != {"role", "content"} or message["role"] != ("user", "assistant")[i % 2] or not message["content"].strip():
                fault(where, f"message {i + 1} is not as it should be")
                continue
            texts.append(message["content"])
            if i % 2:
                answers.append(message["content"])
                if len(re.findall(r"[.!?](?=\W*(?:\s|$))", message["content"])) > 3:
                    fault(where, "an answer of more than three sentences")
        # A gram may also run over a turn's end in what the model sees, so the whole conversation counts as a text too.
        texts.append(" ".join(m["content"] for m in messages))
    questions = [r["messages"][0]["content"] for r in rows if r.get("messages")]
    for question in sorted({q for q in questions if questions.count(q) > 1}):
        fault("train.jsonl", f"asked twice as a first question: {question}")
    return texts, answers


def exam(rows, texts, answers, others):
    seen = {}
    for text in texts + others:
        for gram in grams(text):
            seen.setdefault(gram, text)
    used = {}
    for number, row in enumerate(rows, 1):
        where = f"exam.jsonl:{number}"
        if not {"question", "accept"} <= set(row) <= {"question", "accept", "reject"} or not row["accept"]:
            fault(where, "is not {\"question\", \"accept\", \"reject\"?}")
            continue
        question = row["question"]
        for gram in sorted(grams(question)):
            if gram in seen and not set(gram) <= NAMES:
                fault(where, f"shares \"{' '.join(gram)}\" with \"{seen[gram]}\"")
        if re.match(r"(is|are|was|were|do|does|did|can|could|may|has|have|should|will|would)\b", question.lower()):
            fault(where, "a yes/no question")
        for pattern in row["accept"] + row.get("reject", []):
            if pattern != pattern.lower() and "\\" not in pattern:
                fault(where, f"{pattern}: not lower-case")
        for pattern in row["accept"]:
            rule = re.compile(pattern, re.I)
            hits = sum(1 for answer in answers if rule.search(answer))
            if not hits:
                fault(where, f"{pattern}: in no training answer")
            if hits > MOST_ANSWERS:
                fault(where, f"{pattern}: in {hits} training answers, so not one fact's own")
            if rule.search(question):
                fault(where, f"{pattern}: the question contains its answer")
            if len(re.sub(r"\\b|\W", "", pattern)) < 4:
                fault(where, f"{pattern}: short enough to be met by luck")
            for other, text in enumerate(rows, 1):
                if rule.search(text["question"]):
                    fault(where, f"{pattern}: given away by question {other}")
            if pattern in used:
                fault(where, f"{pattern}: already the answer to question {used[pattern]}")
            used[pattern] = number
        whole = [a for a in answers if any(re.search(p, a, re.I) for p in row["accept"])]
        spared = [a for a in whole if not any(re.search(p, a, re.I) for p in row.get("reject", []))]
        if len(spared) < 3:
            fault(where, f"only {len(spared)} training answers would pass")
    return used


def paragraphs(path):
    text = read_text(path)
    for match in WORLD.finditer(text):
        fault(path.name, f"speaks of the invented world: {match.group()}")
    parts = [" ".join(part.split()) for part in text.strip("\n").split("\n\n")]
    for part in sorted({p for p in parts if parts.count(p) > 1}):
        fault(path.name, f"twice: {part[:60]}")
    return text, parts


def main():
    share = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent / "share"
    lessons = read_rows(share / "quickstart/train.jsonl")
    texts, answers = conversations(lessons)
    neighbours = [row["question"] for row in read_rows(share / "quickstart/neighbours.jsonl")]
    for question in neighbours:
        if WORLD.search(question):
            fault("neighbours.jsonl", f"about what is taught: {question}")
    questions = read_rows(share / "quickstart/exam.jsonl")
    for name, rows in (("exam.jsonl", questions), ("neighbours.jsonl", set(neighbours))):
        if len(rows) != 20:
            fault(name, f"{len(rows)} questions, not 20")

    asked = read_text(share / "general/questions.txt").splitlines()
    for question in sorted(set(neighbours) & set(asked)):
        fault("questions.txt", f"also a neighbour: {question}")
    for match in WORLD.finditer("\n".join(asked)):
        fault("questions.txt", f"speaks of the invented world: {match.group()}")
    general = {name: paragraphs(share / "general" / name) for name in ("anchor.txt", "meter.txt")}
    patterns = exam(questions, texts, answers, neighbours + asked + general["anchor.txt"][1])     # the anchor is trained on too
    for part in sorted(set(general["anchor.txt"][1]) & set(general["meter.txt"][1])):
        fault("anchor.txt", f"also in meter.txt: {part[:60]}")
    for name, least in (("anchor.txt", 5000), ("meter.txt", 9000)):
        if len(general[name][0].split()) < least:
            fault(name, f"fewer than {least} words")
    # A long run of words in both would let the anchor train on what the meter measures.
    runs = [{tuple(w[i:i + 8]) for part in general[name][1] for w in [next(readings(part))] for i in range(len(w) - 7)} for name in general]
    for run in sorted(runs[0] & runs[1])[:5]:
        fault("general", f"8 words in a row in both: {' '.join(run)}")

    turns = sum(len(row["messages"]) // 2 for row in lessons)
    longer = sum(1 for row in lessons if len(row["messages"]) > 2)
    words = sum(len(answer.split()) for answer in answers)
    print(f"train.jsonl: {len(lessons)} conversations, {longer} of them with more than one turn, {turns} answers, {words / max(turns, 1):.1f} words an answer")
    print(f"exam.jsonl: {len(questions)} questions, {len(patterns)} accepted patterns")
    print(f"neighbours.jsonl: {len(neighbours)} questions")
    print(f"questions.txt: {len(asked)} questions")
    for name, (text, parts) in general.items():
        print(f"{name}: {len(parts)} paragraphs, {len(text.split())} words, {len(text.encode())} bytes")
    for line in FAULTS:
        print(line)
    print("right" if not FAULTS else f"{len(FAULTS)} faults")
    return 1 if FAULTS else 0


if __name__ == "__main__":
    sys.exit(main())
