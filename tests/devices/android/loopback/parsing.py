"""The part of the shell's language that Handheld speaks: `a; b && c || d`, quotes, assignments, `*`, `>`."""

from __future__ import annotations

from dataclasses import dataclass, field

OPERATORS = ("&&", "||", "2>&1", "2>", ">", ";", "\n")


@dataclass(frozen=True)
class Word:
    """A word with its quotes taken off; `pattern` where a `*` stands outside of quotes."""

    text: str
    pattern: bool = False


@dataclass
class Command:
    """A simple command. It is run if the code of the one before fits `when`: `;` any, `&&` 0, `||` another."""

    when: str
    words: list[Word] = field(default_factory=list)
    redirections: dict[str, str] = field(default_factory=dict)

    @property
    def texts(self) -> list[str]:
        return [word.text for word in self.words]


def parse(line: str) -> list[Command]:
    """Raises `ValueError` for what is not of this language."""
    commands = [Command(";")]
    redirected: str | None = None
    for token in _tokens(line):
        if isinstance(token, Word):
            if redirected is not None:
                commands[-1].redirections[redirected] = token.text
                redirected = None
            else:
                commands[-1].words.append(token)
        elif token in (";", "\n", "&&", "||"):
            commands.append(Command(";" if token == "\n" else token))
        elif token == "2>&1":
            commands[-1].redirections["2>"] = "&1"
        else:
            redirected = token
    return [command for command in commands if command.words]


def _tokens(line: str) -> list[Word | str]:
    found: list[Word | str] = []
    place = 0
    while place < len(line):
        operator = next((o for o in OPERATORS if line.startswith(o, place)), None)
        if operator is not None:
            found.append(operator)
            place += len(operator)
        elif line[place] == " ":
            place += 1
        else:
            word, place = _word(line, place)
            found.append(word)
    return found


def _word(line: str, place: int) -> tuple[Word, int]:
    text, pattern, quote = "", False, ""
    while place < len(line):
        letter = line[place]
        if quote:
            if letter == quote:
                quote = ""
            else:
                text += letter
        elif letter in "'\"":
            quote = letter
        elif letter in " \n" or letter in ";&|>":
            break
        elif letter in "`()<":
            raise ValueError(f"'{letter}' unexpected")
        else:
            pattern = pattern or letter == "*"
            text += letter
        place += 1
    if quote:
        raise ValueError("no closing quote")
    if place < len(line) and line[place] == "&" and not line.startswith("&&", place):
        raise ValueError("'&' unexpected")
    if place < len(line) and line[place] == "|" and not line.startswith("||", place):
        raise ValueError("'|' unexpected")
    return Word(text, pattern), place
