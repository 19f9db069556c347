"""What is wrong with a predictions file: offences of each kind are counted, the first few are shown, in printable ASCII."""

from __future__ import annotations

from dataclasses import dataclass, field

from clinloop.errors import BadPredictions

_EXAMPLES = 3


@dataclass
class Offences:
    """The number of offences of one kind and the first few."""

    count: int = 0
    examples: list[str] = field(default_factory=list[str])

    def add(self, example: str) -> None:
        """Count one more."""
        self.count += 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append(example)

    def listed(self, separator: str) -> str:
        """Return the first few and how many more there are."""
        more = self.count - len(self.examples)
        return separator.join(self.examples) + (f"{separator}and {more:,} more" if more else "")


def too_large(size: int, cap: int) -> BadPredictions:
    """Build the refusal of a file that is larger than any valid one."""
    return BadPredictions(
        f"The predictions file has {size:,} bytes; at most {cap:,} are valid here: write one short line per issued case and nothing else."
    )


def shown(text: bytes) -> str:
    """Return bytes of the file in printable ASCII, shortened."""
    start = ascii(text[:40].decode("utf-8", errors="backslashreplace"))
    return start + "…" if len(text) > 40 else start


def refuse(
    wrong: Offences,
    missing: Offences,
    extra: Offences,
    repeated: Offences,
    *,
    n_issued: int | None,
    noun: str = "line",
    valid: str = "",
) -> None:
    """Raise BadPredictions if there is any offence; `noun` is what the file has one of per case, `valid` what to write instead."""
    parts: list[str] = []
    if wrong.count:
        parts.append(f"{_many(wrong.count, noun)} wrong: {wrong.listed('; ')}")
    if repeated.count:
        parts.append(f"{_many(repeated.count, noun)} repeating a case_id: {repeated.listed(', ')}")
    if missing.count:
        parts.append(f"{_many(missing.count, 'issued case')} missing: {missing.listed(', ')}")
    if extra.count:
        parts.append(f"{_many(extra.count, noun)} with a case_id that was not issued: {extra.listed(', ')}")
    if not parts:
        return
    count = f"one {noun} per case" if n_issued is None else f"one {noun} for each of the {n_issued:,} issued cases"
    raise BadPredictions(f"{'. '.join(parts)}. {valid or f'Write {count}, with its case_id as given.'}")


def _many(count: int, noun: str) -> str:
    return f"1 {noun} is" if count == 1 else f"{count:,} {noun}s are"
