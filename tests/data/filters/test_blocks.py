"""Each block over single documents: what it changes, what it drops and why, worked out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from platen.core.errors import ConfigError
from tests.data.filters.conftest import RunBlocks

PROSE = (
    "The old harbour lies to the north of the town, and most of the boats that come here have been out all "
    "night. People wait with baskets on the quay, and the gulls wait with them. Nobody seems to hurry."
)


def test_wrong_decodings_are_repaired_and_right_ones_stay(run_blocks: RunBlocks) -> None:
    good = "The café’s naïve “menu”, ﬁne, ＡＢＣ, 日本語."
    broken = "Müller’s café".encode().decode("cp1252")
    twice = "Müller".encode().decode("latin-1").encode().decode("latin-1")
    ran = run_blocks({"good": good, "broken": broken, "twice": twice}, {"block": "encoding"})
    assert ran.texts == {"good": good, "broken": "Müller’s café", "twice": "Müller"}
    count = ran.counts["encoding"]
    assert (count.seen, count.changed, count.removed) == (3, 2, 0)
    assert count.examples[0].before.startswith("MÃ¼ller")


def test_entities_only_when_asked_for(run_blocks: RunBlocks) -> None:
    assert run_blocks({"a": "salt &amp; pepper"}, {"block": "encoding"}).texts["a"] == "salt &amp; pepper"
    asked = run_blocks({"a": "salt &amp; pepper"}, {"block": "encoding", "unescape_html": True})
    assert asked.texts["a"] == "salt & pepper"


def test_unicode_is_the_cleaning_step(run_blocks: RunBlocks) -> None:
    ran = run_blocks({"a": "cafe\u0301 \r\nﬁn\x07"}, {"block": "unicode", "form": "NFKC"})
    assert ran.texts["a"] == "café\nfin"
    assert ran.counts["unicode"].found["control_characters"] == 1


def test_pages_become_their_text(run_blocks: RunBlocks) -> None:
    page = (
        "<!doctype html><html><head><title>t</title><script>var x = 1;</script></head><body>"
        "<nav><ul><li><a href='/'>Home</a></li><li><a href='/b'>Basket</a></li></ul></nav>"
        f"<article><h1>Harbour</h1><p>{PROSE}</p><p>{PROSE[:100]}</p></article><footer>Imprint</footer></body></html>"
    )
    ran = run_blocks({"page": page}, {"block": "markup"})
    assert PROSE in ran.texts["page"]
    assert "Basket" not in ran.texts["page"]
    assert "<" not in ran.texts["page"]
    bare = run_blocks({"page": page}, {"block": "markup", "boilerplate": False}).texts["page"]
    assert {"Basket", "Imprint"} <= set(bare.split())
    assert "var x" not in bare


def test_lines_of_symbols_go_and_code_with_comparisons_stays(run_blocks: RunBlocks) -> None:
    ran = run_blocks({"a": "Title\n=====\nif a < b and c > d:\n---\n\nend"}, {"block": "markup"})
    assert ran.texts["a"] == "Title\nif a < b and c > d:\n\nend"


def test_languages(run_blocks: RunBlocks) -> None:
    texts = {
        "en": PROSE,
        "de": "Der alte Hafen liegt im Norden der Stadt, und die meisten Boote waren nachts draußen.",
        "fr": "Le vieux port se trouve au nord de la ville et la plupart des bateaux sont sortis la nuit.",
        "ru": "Старая гавань лежит к северу от города, и большинство лодок были в море всю ночь.",
        "none": "42 17 3 == 9",
    }
    ran = run_blocks(texts, {"block": "language", "keep": ["en", "de"]})
    assert ran.languages == {"en": "en", "de": "de"}
    assert ran.counts["language"].reasons["fr"] == ran.counts["language"].reasons["ru"] == 1
    assert ran.counts["language"].removed == 3
    everything = run_blocks(texts, {"block": "language"})
    assert len(everything.texts) == 5
    assert everything.languages["none"] in ("und", "zxx")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("word " * 49 + "of the", None),
        ("the of word", "too few words"),
        ("the of " + "a " * 60, "length of words"),
        ("the of " + "word # " * 60, "too many symbols"),
        ("the of word word\n" * 1 + "- word word word word word\n" * 12, "too many bullets"),
        ("the of word word...\n" * 15, "too many symbols"),
        (("the of word word word word word word word word word word word word…\n") * 8, "too many ellipses"),
        ("the of " + "1234 " * 60, "too few words with letters"),
        ("word " * 60, "too few stop words"),
    ],
)
def test_gopher_quality(run_blocks: RunBlocks, text: str, reason: str | None) -> None:
    ran = run_blocks({"a": text}, {"block": "gopher_quality"})
    assert ran.counts["gopher_quality"].reasons == ({reason: 1} if reason else {})


def test_gopher_quality_limits_are_the_projects(run_blocks: RunBlocks) -> None:
    assert run_blocks({"a": PROSE}, {"block": "gopher_quality", "min_words": 30}).texts
    german = {"block": "gopher_quality", "min_words": 30, "stop_words": ["ja"]}
    assert not run_blocks({"a": PROSE}, german).texts


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (PROSE, None),
        ("one line\n" * 3 + "\n".join(f"line {n} is not that one" for n in range(3)), "repeated lines"),
        ("aaaaaaaaaaaaaaaaaaaa\naaaaaaaaaaaaaaaaaaaa\nb\nc\nd", "repeated characters in lines"),
        ("p q\n\np q\n\np q\n\nr", "repeated paragraphs"),
        # 'ab cd' is 5 characters and comes 4 times in 47: 0.43 > 0.2
        ("ab cd 1 ab cd 22 ab cd 333 ab cd e f g h i j k l", "most frequent 2-gram"),
    ],
)
def test_gopher_repetition(run_blocks: RunBlocks, text: str, reason: str | None) -> None:
    ran = run_blocks({"a": text}, {"block": "gopher_repetition"})
    assert ran.counts["gopher_repetition"].reasons == ({reason: 1} if reason else {})


def test_c4_keeps_sentences(run_blocks: RunBlocks) -> None:
    lines = ["This is a whole sentence.", "Home | About", "Please enable Javascript to go on.", "Too short.",
             "Read our privacy policy before that.", "It was so.[12] And it stayed."]  # fmt: skip
    ran = run_blocks({"a": "\n".join(lines)}, {"block": "c4", "min_sentences": 3})
    assert ran.texts["a"] == "This is a whole sentence.\nIt was so. And it stayed."
    texts = {"a": "\n".join(lines), "b": "if (x) { y }", "c": "Lorem ipsum dolor."}
    five = run_blocks(texts, {"block": "c4"})
    assert five.counts["c4"].reasons == {"too few sentences": 1, "curly bracket": 1, "lorem ipsum": 1}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (PROSE, None),
        ("a line of words without a mark at its very end\n" * 2, "lines without punctuation"),
        ("Short.\n" * 3 + PROSE, "short lines"),
        (f"{PROSE}\n{PROSE}", "repeated characters"),
        ("\n".join(f"Line-{n}-that-is-long-enough-to-be-no-short-one." for n in range(9)), "a list"),
    ],
)
def test_fineweb(run_blocks: RunBlocks, text: str, reason: str | None) -> None:
    ran = run_blocks({"a": text}, {"block": "fineweb"})
    assert ran.counts["fineweb"].reasons == ({reason: 1} if reason else {})


def test_words_of_a_list(run_blocks: RunBlocks, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("# ours\nblorp\n")
    block = {"block": "toxicity", "words": "words.txt", "max_matches": 1}
    ran = run_blocks({"one": "A blorp.", "two": "Blorp and BLÖRP!", "none": "blorping"}, block)
    assert list(ran.texts) == ["one", "none"]
    assert ran.counts["toxicity"].found == {"words": 3}
    with pytest.raises(ConfigError, match=r"missing\.txt can't be read: No such file"):
        run_blocks({"a": "b"}, {"block": "toxicity", "words": "missing.txt"})


def test_a_list_is_utf_8_also_with_a_mark_before_it(run_blocks: RunBlocks, tmp_path: Path) -> None:
    block = {"block": "toxicity", "words": str(tmp_path / "words.txt")}
    (tmp_path / "words.txt").write_bytes("# ours\ncafé*\n".encode("utf-8-sig"))
    ran = run_blocks({"a": "# ours", "b": "cafés, a café", "c": "café* au lait"}, block)
    assert list(ran.texts) == ["a", "b"], "a comment is no word, and * no wildcard"
    (tmp_path / "words.txt").write_bytes("café\n".encode("latin-1"))
    with pytest.raises(ConfigError, match="is not UTF-8 text: byte 0xe9 at offset 3") as refused:
        run_blocks({"a": "b"}, block)
    assert refused.value.hint is not None
    assert "UTF-8" in refused.value.hint


def test_a_list_without_words_is_refused(run_blocks: RunBlocks, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("# nothing yet\n\n")
    with pytest.raises(ConfigError, match="has no word in it"):
        run_blocks({"a": PROSE}, {"block": "toxicity", "words": str(tmp_path / "empty.txt")})


def test_secrets_are_masked_hashed_or_their_documents_dropped(run_blocks: RunBlocks) -> None:
    texts = {
        "a": "Write to jane@example.org or jane@example.org, pay 4111 1111 1111 1111.",
        "b": "Nothing.",
    }
    masked = run_blocks(texts, {"block": "pii"})
    assert masked.texts == {"a": "Write to [EMAIL] or [EMAIL], pay [CARD].", "b": "Nothing."}
    assert masked.counts["pii"].found == {"email": 2, "card": 1}
    assert "jane" not in str(masked.counts["pii"].examples)
    hashed = run_blocks(texts, {"block": "pii", "mask": "hash", "kinds": ["email"]}).texts["a"]
    first, second = hashed.split(" or ")
    assert first.removeprefix("Write to ") == second.split(",")[0]
    assert hashed == run_blocks(texts, {"block": "pii", "mask": "hash", "kinds": ["email"]}).texts["a"]
    assert list(run_blocks(texts, {"block": "pii", "action": "drop"}).texts) == ["b"]


def test_national_phone_numbers_of_the_wanted_countries(run_blocks: RunBlocks) -> None:
    texts = {
        "gb": "Ring 020 7946 0958 today.",
        "de": "Tel. (030) 901820",
        "no": "On 2005-01-26 23:30 it was 0.333333333 of 17.50 20060824; RFC 2047/2243; 1 234 567 890.",
    }
    ran = run_blocks(texts, {"block": "pii", "regions": ["GB", "DE"]})
    assert ran.texts == {"gb": "Ring [PHONE] today.", "de": "Tel. [PHONE]", "no": texts["no"]}
    assert run_blocks(texts, {"block": "pii"}).texts == texts


def test_a_country_without_a_numbering_plan_is_refused(run_blocks: RunBlocks) -> None:
    with pytest.raises(ConfigError, match="regions: UK") as refused:
        run_blocks({"a": PROSE}, {"block": "pii", "regions": ["UK"]})
    assert " FR GA GB GD " in str(refused.value)


def test_examples_of_other_blocks_hide_what_pii_looks_for(run_blocks: RunBlocks) -> None:
    text = "Müller of jane@example.org".encode().decode("cp1252")
    ran = run_blocks({"a": text}, {"block": "encoding"}, {"block": "pii"})
    assert "jane" not in str(ran.counts["encoding"].examples)


def test_examples_show_what_a_document_was_removed_for(run_blocks: RunBlocks, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("rotten worm")
    long = "The boats came home at night. " * 20
    texts = {"a": PROSE, "b": f"{long}You rotten worm! {long}", "c": f"{long}Ask jane@example.org. {long}"}
    ran = run_blocks(texts, {"block": "toxicity", "words": "words.txt"}, {"block": "pii", "action": "drop"})
    (hit,), (masked,) = (ran.counts[name].examples for name in ("toxicity", "pii"))
    assert "came home at night. You rotten worm!" in hit.before
    assert hit.before.startswith("…")
    assert "Ask ████████████████. The" in masked.before
    assert [ran.counts[name].names for name in ("toxicity", "pii")] == [["b"], ["c"]]
