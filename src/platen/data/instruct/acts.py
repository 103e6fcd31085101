"""The seven speech acts, and the rules that tell them without any model.

What a message does rather than what it says: a greeting, a promise, a request, a verdict. Rules see the form,
which is not always the function; a classifier trained on your own labels, or a language model, sees more.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, get_args

Act = Literal[
    "expressive", "commissive", "directive", "declaration", "verdictive", "question", "representative"
]
ACTS: tuple[Act, ...] = get_args(Act)
MEANINGS: Mapping[Act, str] = {
    "expressive": "greeting, apology, congratulation, condolence, thanks",
    "commissive": "promise, oath, pledge, threat, vow",
    "directive": "command, request, challenge, invitation, order, dare",
    "declaration": "blessing, firing, hiring, arrest, sentence: saying it makes it so",
    "verdictive": "ranking, assessment, appraisal, condoning",
    "question": "asks for something to be told",
    "representative": "assertion, claim, description, suggestion, answer",
}


class ActTagger(Protocol):
    """Gives each text its speech act."""

    def tag(self, texts: Sequence[str]) -> list[Act]: ...


_COMMANDS = (
    "add answer ask attach be call change check choose clear click close come confirm connect contact "
    "continue copy count create delete describe disable do don't download draft edit email enable "
    "ensure enter explain export find fix follow forward generate get give go hand help hold implement "
    "import install join keep let list log look make mark merge move name open order paste ping plug "
    "post press print provide put read reboot refresh remove rename replace reply report reset restart "
    "restore retry return rewrite roll run save search select send set share show sign solve sort start "
    "stop submit suggest summarise summarize switch take tell translate try turn type uninstall unplug "
    "update upgrade upload use verify visit wait write"
).replace(" ", "|")
_WANTED = (
    r"a|an|the|this|that|these|those|my|our|your|some|any|another|one|two|three|\d+|more|new|access|"
    r"help|assistance|permission|support|someone|somebody"
)
# In this order: what binds a speaker most goes before what tells or asks.
_RULES: tuple[tuple[Act, tuple[str, ...]], ...] = (
    (
        "declaration",
        (
            r"\byou(?:'re| are) (?:now |hereby )?(?:hired|fired|dismissed|under arrest|banned|married)\b",
            r"\bhereby\b|\b(?:i|we) now pronounce\b",
            r"\bi (?:declare|pronounce|sentence|baptise|baptize|name) (?:you|this|the)\b",
            r"\b(?:case|court|meeting) (?:is )?(?:dismissed|adjourned)\b|\bout of order\b|\bbless you\b",
        ),
    ),
    (
        "verdictive",
        (
            r"\byou(?:'re| are) out\b|\b(?:not )?guilty\b|\b(?:first|second|third|last) place\b",
            r"\b(?:grade|score|rank|rate)s? (?:it|this|that|you|them)\b",
            r"\b(?:i|we) (?:rate|rank|judge|rule|assess|consider)\b",
            r"\b\d+(?:\.\d+)?\s?(?:/|out of)\s?(?:5|10|100)\b",
            r"\b(?:is|was|are) (?:by far )?(?:the )?(?:worst|better than|worse than|unacceptable)\b",
            r"\b(?:is|was|are) (?:excellent|terrible|awful|excused|approved|rejected)\b",
        ),
    ),
    (
        "commissive",
        (
            r"\b(?:i|we)(?:'ll| will| shall| promise| swear| vow| pledge| guarantee| undertake)\b",
            r"\b(?:i|we)(?:'m| am|'re| are) going to\b|\bby the realm\b|\bor else\b",
            r"\byou(?:'ll| will) (?:regret|pay for|be sorry)\b",
        ),
    ),
    (
        "directive",
        (
            rf"^(?:(?:please|kindly|just|then|now|so|and|also|first|next|ok(?:ay)?)[ ,]+)*"
            rf"(?!do (?:i|we|you|they)\b)(?:{_COMMANDS})\b",
            r"\bplease\b|\b(?:can|could|would|will) (?:you|someone|anyone|somebody|anybody)\b",
            r"\b(?:i|we) (?:need|want|dare|order|urge) you\b|\byou (?:must|have to|need to|should)\b",
            r"\blet's\b|\bi(?:'ll|'d| will| would) (?:like|order|have|take)\b|\bwe(?:'d| would) like\b",
            # Asks for the thing; “How can I get a badge?” and “Do I need a ticket?” ask to be told.
            r"(?<!\bhow )(?<!\bwhere )(?<!\bwhen )\b(?:can|could|may) (?:i|we) (?:please )?"
            r"(?:have|borrow|get(?! to\b))\b",
            r"(?:^|[,;:] ?|\b(?:and|but|so|because|now) )(?:i|we) (?:really |also |still |urgently )?"
            rf"(?:need|want|require) (?:{_WANTED})\b",
            r"\b(?:wonder(?:ing|ed)?|grateful|great|nice|kind|appreciate it) if (?:you|someone) "
            r"(?:can|could|would)\b",
        ),
    ),
    (
        "question",
        (
            r"\?\s*$",
            r"^(?:what|where|when|why|who|whom|whose|which|how|is|are|was|were|do|does|did|has|have|am|may|might)\b"
            r"[^.!]*$",
        ),
    ),
    (
        "expressive",
        (
            r"\b(?:thanks?|thx|cheers|sorry|apolog\w+|congrat\w+|condolences|welcome|well done)\b",
            r"\b(?:hello|hey|hi|good (?:morning|afternoon|evening|night)|bye|goodbye|great job|good job)\b",
            r"\b(?:awesome|wow|ugh|yay|hooray|damn|i (?:love|hate)|you(?:'re| are) the best|glad)\b",
            r"^[^\w]*[:;]-?[()DP]|^[!\W]+$",
        ),
    ),
)
_COMPILED = tuple((act, re.compile("|".join(patterns), re.IGNORECASE)) for act, patterns in _RULES)
_ORDER_ITSELF = re.compile(r"\bi(?:'ll| will) (?:order|have|take)\b", re.IGNORECASE)
_GREETING = re.compile(
    r"^(?:hello|hi|hey|good (?:morning|afternoon|evening))\b[^,.!?\n]{0,20}[,.!\n]\s*(?=\w)", re.I
)
_SENTENCE = re.compile(r"[^.!?\n]+[.!?]*|[.!?]+")


class RuleActs:
    """Tells an act by words and punctuation. English only; anything it does not know is a representative."""

    def tag(self, texts: Sequence[str]) -> list[Act]:
        return [_act_of(text) for text in texts]


def _act_of(text: str) -> Act:
    """The strongest act among a text's sentences, in the order of the rules.

    A greeting or thanks beside more that is said is politeness: expressive is what is so by half at least.
    """
    plain = _GREETING.sub("", text.replace("’", "'").strip())
    found = [_act_of_sentence(match.group().strip()) for match in _SENTENCE.finditer(plain)]
    if 2 * found.count("expressive") < len(found):
        found = [act for act in found if act != "expressive"]
    return next((act for act, _ in _COMPILED if act in found), "representative")


def _act_of_sentence(sentence: str) -> Act | None:
    for act, pattern in _COMPILED:
        if act == "commissive" and _ORDER_ITSELF.search(sentence):
            continue  # “I'll order the third combo” asks for something
        if pattern.search(sentence):
            return act
    return None
