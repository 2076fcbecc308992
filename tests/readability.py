"""How easy a Markdown text is to read: sentences of its prose, and Flesch's reading ease.

python tests/readability.py README.md docs/*.md      # the value of each page, and its long sentences
"""

import re
import sys
from pathlib import Path

LONG = 20  # words
REMOVED = (
    r"(?s)<!--.*?-->",
    r"(?ms)^```.*?^```",  # code
    r"(?m)^\|.*$",  # tables
    r"!\[[^\]]*\]\([^)]*\)",  # pictures
    r"https?://\S+",
    r"(?m)^#.*$",  # headings
)


def sentences(markdown: str) -> list[str]:
    """The sentences outside code, tables and headings; inline code counts as one short word."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", markdown)
    for pattern in REMOVED:
        text = re.sub(pattern, "", text)
    text = re.sub(r"`[^`]*`", "code", text)
    blocks = re.split(r"\n\s*\n|\n(?=\s*(?:[-*]|\d+\.)\s)", text)
    found = (s for block in blocks for s in re.split(r"(?<=[.!?])\s+", " ".join(block.split())))
    return [s for s in found if words(s)]


def words(text: str) -> list[str]:
    """Everything with letters."""
    return re.findall(r"[A-Za-z][A-Za-z'-]*", text)


def syllables(word: str) -> int:
    """Groups of vowels, without a silent ending."""
    spoken = re.sub(r"(?<=[^laeiouy])(es|e)$|(?<=[^aeiouytd])ed$", "", word.lower())
    return max(1, len(re.findall(r"[aeiouy]+", spoken)))


def reading_ease(markdown: str) -> float:
    """Flesch (1948): 60 to 70 is plain English, higher is easier."""
    found = sentences(markdown)
    spoken = [word for sentence in found for word in words(sentence)]
    return 206.835 - 1.015 * len(spoken) / len(found) - 84.6 * sum(map(syllables, spoken)) / len(spoken)


if __name__ == "__main__":
    for page in map(Path, sys.argv[1:]):
        print(f"{page}: {reading_ease(page.read_text()):.1f}, {len(page.read_text().splitlines())} lines")
        for sentence in sentences(page.read_text()):
            if len(words(sentence)) > LONG:
                print(f"    {len(words(sentence))} words: {sentence}")
