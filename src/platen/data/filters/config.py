"""The project file's `data.filters`: the blocks that documents pass, in order, and where they run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal, Self, get_args

from pydantic import Field, model_validator

from platen.core.config import PathInFile, PositiveInt, Section, Text
from platen.data.readers.config import Source
from platen.scan.config import GuardMask, SecretKind

Share = Annotated[float, Field(ge=0, le=1)]


class BlockSection(Section):
    """What the sections of all blocks have in common."""

    def reads(self) -> tuple[str, ...]:
        """The files and folders that the block reads, as the project file names them."""
        return tuple(found.path for found in self.paths() if found.holds != "reference")


class EncodingBlock(BlockSection):
    """Repairs text that was decoded wrongly, such as `cafÃ©`, with ftfy."""

    block: Literal["encoding"]
    """Which block."""
    unescape_html: bool = False
    """Also turn `&amp;` and its like into characters, in texts that have no markup."""


class UnicodeBlock(BlockSection):
    """Uniform line ends, Unicode form, no control characters: the cleaning step, at another place."""

    block: Literal["unicode"]
    """Which block."""
    form: Literal["NFC", "NFKC", "none"] = "NFC"
    """Unicode normalisation form."""


class MarkupBlock(BlockSection):
    """Takes HTML's main text out of its page, and lines that are only symbols out of any text."""

    block: Literal["markup"]
    """Which block."""
    boilerplate: bool = True
    """Leave out navigation, footers and the like of HTML pages; otherwise only the tags go."""


class LanguageBlock(BlockSection):
    """Finds each document's language and keeps the wanted ones."""

    block: Literal["language"]
    """Which block."""
    keep: tuple[Annotated[str, Field(pattern="^[a-z]{2,3}$")], ...] = ()
    """ISO 639 codes of the languages to keep; empty keeps all and only counts them."""
    min_confidence: Share = 0.5
    """Documents whose language is less sure count as unknown, and are dropped when `keep` is given."""


class GopherQualityBlock(BlockSection):
    """The quality rules of Gopher (Rae et al. 2021, table A1)."""

    block: Literal["gopher_quality"]
    """Which block."""
    min_words: PositiveInt = 50
    """Fewest words."""
    max_words: PositiveInt = 100_000
    """Most words."""
    min_mean_word: Annotated[float, Field(ge=0)] = 3.0
    """Least mean length of a word, in characters."""
    max_mean_word: Annotated[float, Field(gt=0)] = 10.0
    """Greatest mean length of a word, in characters."""
    max_symbol_ratio: Share = 0.1
    """Most hashes, and most ellipses, for each word."""
    max_bullet_lines: Share = 0.9
    """Largest share of lines that begin with a bullet."""
    max_ellipsis_lines: Share = 0.3
    """Largest share of lines that end with an ellipsis."""
    min_alphabetic_words: Share = 0.8
    """Least share of words with a letter in them."""
    min_stop_words: Annotated[int, Field(ge=0)] = 2
    """How many different ones of the stop words it must have."""
    stop_words: tuple[str, ...] = ("the", "be", "to", "of", "and", "that", "have", "with")
    """Stop words; English by default."""


class GopherRepetitionBlock(BlockSection):
    """The repetition rules of Gopher (Rae et al. 2021, table A1): what is said again."""

    block: Literal["gopher_repetition"]
    """Which block."""
    max_duplicate_lines: Share = 0.3
    """Largest share of lines, and of paragraphs, that repeat an earlier one."""
    max_duplicate_line_characters: Share = 0.2
    """Largest share of characters in such lines, and in such paragraphs."""
    top_ngrams: Annotated[tuple[Share, ...], Field(min_length=3, max_length=3)] = (0.2, 0.18, 0.16)
    """Largest share of characters in the most frequent 2-, 3- and 4-gram of words."""
    duplicate_ngrams: Annotated[tuple[Share, ...], Field(min_length=6, max_length=6)] = (
        0.15, 0.14, 0.13, 0.12, 0.11, 0.1
    )  # fmt: skip
    """Largest share of characters in repeated 5-, 6-, … 10-grams of words."""


class C4Block(BlockSection):
    """The rules of C4 (Raffel et al. 2020): drops what is no sentence and no text."""

    block: Literal["c4"]
    """Which block."""
    terminal_punctuation: bool = True
    """Drop lines that do not end in `.`, `?`, `!` or a quotation mark."""
    min_words_in_line: Annotated[int, Field(ge=0)] = 3
    """Drop lines with fewer words."""
    min_sentences: Annotated[int, Field(ge=0)] = 5
    """Drop documents with fewer sentences left."""
    curly_brackets: bool = True
    """Drop documents with a curly bracket: they are code."""


class FineWebBlock(BlockSection):
    """The rules that FineWeb adds (Penedo et al. 2024): lists, short lines, repeated characters."""

    block: Literal["fineweb"]
    """Which block."""
    min_punctuated_lines: Share = 0.12
    """Least share of lines that end in punctuation."""
    short_line: PositiveInt = 30
    """A line of at most so many characters is short."""
    max_short_lines: Share = 0.67
    """Largest share of short lines."""
    max_duplicate_characters: Share = 0.01
    """Largest share of characters in lines that repeat an earlier one."""
    max_newline_ratio: Share = 0.3
    """Most line feeds for each word."""


class PerplexityBlock(BlockSection):
    """Drops documents by their perplexity under an n-gram model of clean text (CCNet, Wenzek et al. 2020)."""

    block: Literal["perplexity"]
    """Which block."""
    model: Text | None = None
    """A folder that `platen baselines ngram` wrote. This or `reference`."""
    reference: Source | None = None
    """Clean text of yours that a model is counted from, once."""
    max_perplexity: Annotated[float, Field(gt=1)] | None = None
    """Documents with more are dropped: noise, other languages, word lists."""
    min_perplexity: Annotated[float, Field(gt=1)] | None = None
    """Documents with less are dropped: what repeats itself or the reference."""
    max_percentile: Annotated[float, Field(gt=0, le=100)] | None = None
    """The same as a percentile of the reference: of a tenth of its documents, not counted into the model."""
    min_percentile: Annotated[float, Field(ge=0, lt=100)] | None = None
    """The same for the least."""

    @property
    def by_percentile(self) -> bool:
        """Whether a bound is one."""
        return self.max_percentile is not None or self.min_percentile is not None

    def paths(self) -> Iterator[PathInFile]:
        if self.model is not None:
            yield PathInFile("model", self.model, "n-grams", self)
        if self.reference is not None:
            yield PathInFile("reference", self.reference.path, "reference", self.reference)

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if (self.model is None) == (self.reference is None):
            raise ValueError("give either a model or a reference")
        if self.by_percentile and self.reference is None:
            raise ValueError("a percentile is one of a reference's documents: give a reference, not a model")
        for end in ("max", "min"):
            if None not in (getattr(self, f"{end}_perplexity"), getattr(self, f"{end}_percentile")):
                raise ValueError(f"give either {end}_perplexity or {end}_percentile")
        bounds = [self.min_perplexity, self.max_perplexity, self.min_percentile, self.max_percentile]
        if bounds == [None] * 4:
            raise ValueError("no bound is given: say max_perplexity, or max_percentile with a reference")
        for least, most in (bounds[:2], bounds[2:]):
            if least is not None and most is not None and least >= most:
                raise ValueError(f"no document is between {least:g} and {most:g}")
        return self


class ExactBlock(BlockSection):
    """Drops documents with the same text as an earlier one, letter case and blanks aside."""

    block: Literal["exact_duplicates"]
    """Which block."""


class NearBlock(BlockSection):
    """Drops documents that are nearly the same as an earlier one (MinHash over word trigrams)."""

    block: Literal["near_duplicates"]
    """Which block."""
    similarity: Annotated[float, Field(ge=0.4, le=1)] = 0.5
    """Share of word trigrams in common (Jaccard) from which it counts; 0.5: about a word in nine edited."""


class ContaminationBlock(BlockSection):
    """Drops documents that share a 13-gram of words with a benchmark, or with the held-out splits."""

    block: Literal["contamination"]
    """Which block."""
    against: tuple[Text, ...] = ()
    """Benchmark files, relative to the project file: text, or JSON lines of which every text value counts."""
    ngram: Annotated[int, Field(ge=4, le=50)] = 13
    """Words in a row that count; a shorter item counts as a whole from 5 words."""
    across_splits: bool = True
    """After the split, also drop training documents that share one with validation or test."""

    def paths(self) -> Iterator[PathInFile]:
        return (PathInFile(f"against: {path}", path, "file", self) for path in self.against)

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        if not self.against and not self.across_splits:
            raise ValueError("nothing to compare with: give against, or across_splits: true")
        return self


class PiiBlock(BlockSection):
    """Masks secrets and personal data, or drops the documents that have some."""

    block: Literal["pii"]
    """Which block."""
    kinds: tuple[SecretKind, ...] = get_args(SecretKind)
    """Which kinds."""
    names: Text | None = None
    """Also names of people: a folder, in the Hub's format, of a model that labels tokens as PER or PERSON."""
    action: Literal["mask", "drop"] = "mask"
    """`mask` puts something in its place, `drop` drops the document."""
    mask: GuardMask = "label"
    """What stands in its place: `[EMAIL]`, `[EMAIL:1f3a9c02]` (equal for equal ones), or nothing."""
    regions: tuple[Annotated[str, Field(pattern="^[A-Z]{2}$")], ...] = ()
    """Countries (ISO 3166) whose national phone numbers are looked for beside international ones."""

    def paths(self) -> Iterator[PathInFile]:
        if self.names is not None:
            yield PathInFile("names", self.names, "tagger", self)

    @model_validator(mode="after")
    def _looks_for_something(self) -> Self:
        if not self.kinds and self.names is None:
            raise ValueError("kinds is empty: nothing is looked for without names")
        return self


class ToxicityBlock(BlockSection):
    """Drops documents with words of a list of yours, and those that a classifier of yours is against."""

    block: Literal["toxicity"]
    """Which block."""
    words: Text | None = None
    """A file with a word or phrase a line, without wildcards, `#` before comments; case, accents and
    look-alike letters make no difference."""
    max_matches: Annotated[int, Field(ge=0)] = 0
    """Documents with more matches are dropped."""
    classifier: Text | None = None
    """A folder with a text classifier: one that Platen's baselines saved, or one in the Hub's format."""
    label: Text | None = None
    """The classifier's label for what is to go."""
    threshold: Share = 0.5
    """Documents with a passage that has the label with this probability or more are dropped."""

    def paths(self) -> Iterator[PathInFile]:
        if self.words is not None:
            yield PathInFile("words", self.words, "word list", self)
        if self.classifier is not None:
            yield PathInFile("classifier", self.classifier, "classifier", self)

    @model_validator(mode="after")
    def _looks_for_something(self) -> Self:
        if self.words is None and self.classifier is None:
            raise ValueError("nothing to look for: give words, or a classifier and its label")
        if (self.classifier is None) != (self.label is None):
            raise ValueError("classifier and label go together: give both")
        return self


BlockConfig = Annotated[
    EncodingBlock
    | UnicodeBlock
    | MarkupBlock
    | LanguageBlock
    | GopherQualityBlock
    | GopherRepetitionBlock
    | C4Block
    | FineWebBlock
    | PerplexityBlock
    | ExactBlock
    | NearBlock
    | ContaminationBlock
    | PiiBlock
    | ToxicityBlock,
    Field(discriminator="block"),
]


class FiltersConfig(Section):
    """What documents pass between reading and splitting."""

    blocks: Annotated[tuple[BlockConfig, ...], Field(min_length=1)]
    """In this order."""
    executor: Annotated[Literal["local", "ray"], Field(exclude=True)] = "local"
    """`local` processes, or Ray (`RAY_ADDRESS`, or a cluster on this machine); the output is the same."""
    workers: Annotated[PositiveInt, Field(exclude=True)] = 1
    """Processes at work; the output is the same with any number."""
