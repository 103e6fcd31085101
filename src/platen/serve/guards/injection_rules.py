"""What attempts to turn a model against its instructions look like.

Each rule is a pattern with a weight; weights add up. They are read on folded text whose words are parted by
one blank, so that a gap of words is bounded and every pattern takes linear time. English first; the commonest
attempt also in German, French, Spanish, Italian, Portuguese, Chinese and Japanese.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Clue:
    """`needs`: of these one is in every text that `pattern` matches; it saves the trying."""

    rule: str
    weight: float
    needs: tuple[str, ...]
    pattern: re.Pattern[str]


def _clue(rule: str, weight: float, needs: str, pattern: str) -> Clue:
    return Clue(rule, weight, tuple(needs.split()), re.compile(pattern))


def _gap(words: int) -> str:
    return rf"(?:\w+ ){{0,{words}}}?"


_DROP = (
    r"\b(?:ignor(?:e|ing)|disregard|forget|override|overrule|bypass|overlook|neglect|discard|abandon|violate"
    r"|break|stop (?:following|obeying)|(?:do not|don t|dont|never) (?:follow|obey|listen to)) "
)
_OLD = (
    r"(?:previous|prior|above|earlier|preceding|former|foregoing|existing|initial|original|system|developer"
    r"|your|all|any|every|these|those|safety|content|openai|anthropic)"
)
_ORDERS = (
    r"(?:instructions?|prompts?|directives?|directions|guidelines?|commands?|orders|programming|restrictions"
    r"|constraints|polic(?:y|ies)|safeguards|filters?|guardrails|rules|context|messages?|conversation)\b"
)
_TELL = (
    r"\b(?:reveal|show|print|repeat|display|output|tell|give|leak|expose|disclose|share|recite|dump|write"
    r"|copy|paste|translate|summari[sz]e|encode|what (?:is|are|was|were|s|does|did)) "
)
_HIDDEN = r"(?:system|initial|hidden|secret|original|developer|confidential|internal|starting|base)"

_ORDERS_NEED = (
    "instruct prompt direct guideline command order programming restriction constraint polic "
    "safeguard filter "
    "guardrail rule context message conversation"
)

# On words parted by one blank.
WORD_CLUES = (
    _clue("override", 1.0, _ORDERS_NEED, rf"{_DROP}{_gap(3)}{_OLD} {_gap(3)}{_ORDERS}"),
    _clue(
        "override",
        1.0,
        "above before told said prior",
        rf"{_DROP}(?:(?:everything|anything|all|what|the) )?{_gap(3)}(?:above|before|told|said|prior)\b",
    ),
    _clue("override", 0.5, _ORDERS_NEED, rf"{_DROP}{_gap(2)}{_ORDERS}"),
    _clue(
        "override",
        1.0,
        "ignor verg missachte oubli olvida omite dimentica esqueca",
        r"\b(?:ignorier(?:e|en|t)|vergiss|vergesst|missachte) (?:\w+ ){0,5}?(?:anweisung(?:en)?"
        r"|instruktion(?:en)?"
        r"|regeln|befehle|vorgaben|prompts?)\b"
        r"|\b(?:ignore[rz]?|oublie[rz]?) (?:\w+ ){0,4}?(?:consignes|regles|directives"
        r"|instructions precedentes)\b"
        r"|\b(?:ignora|ignore|olvida|omite|dimentica|esqueca) (?:\w+ ){0,4}?(?:instrucciones"
        r"|istruzioni|instrucoes"
        r"|reglas|regole|regras|ordenes|indicaciones)\b",
    ),
    _clue(
        "reveal",
        1.0,
        "prompt instruction message directive rules",
        rf"{_TELL}{_gap(6)}{_HIDDEN} (?:\w+ )?(?:prompts?|instructions?|messages?|directives?|rules)\b",
    ),
    _clue(
        "reveal",
        1.0,
        "your",
        rf"{_TELL}{_gap(4)}your (?:\w+ )?(?:prompts?|instructions|directives|guidelines|rules"
        rf"|configuration)\b",
    ),
    _clue(
        "reveal",
        1.0,
        "above",
        r"\b(?:repeat|print|output|copy|write|echo|translate) (?:\w+ ){0,4}?(?:everything|all|text"
        r"|words|content"
        r"|lines) (?:\w+ ){0,3}?above\b",
    ),
    _clue(
        "reveal",
        1.0,
        "env passwd ssh rsa password secret credential key training",
        rf"{_TELL}{_gap(4)}(?:(?:the|your) (?:\w+ )?(?:environment variables|env vars?)|etc passwd"
        rf"|ssh keys?|id rsa"
        r"|your (?:\w+ )?(?:password|secrets?|credentials|api keys?|training data)|(?:the )?(?:admin"
        r"|secret|master)"
        r" (?:password|key|phrase))\b",
    ),
    _clue(
        "reveal",
        0.5,
        "system hidden",
        r"\b(?:your|the|an?) (?:\w+ )?(?:system|hidden) (?:prompt|instructions)\b",
    ),
    _clue(
        "persona",
        1.0,
        "do mode jailbr dan as",
        r"\b(?:can do anything|do anything now|(?:enter|enable|activate|in) (?:\w+ )?(?:developer"
        r"|debug|god|dan|opposite"
        r"|maintenance|sudo|admin) mode|jailbroken|you are (?:now )?dan|(?:act|behave|respond|answer"
        r"|reply) as (?:a )?"
        r"(?:dan|an? (?:unfiltered|uncensored|unrestricted|evil|amoral)))\b",
    ),
    _clue(
        "persona",
        0.6,
        "restrict filter limitation censor guardrail safeguard safety ethical moral policy",
        r"\b(?:without|no|free (?:of|from)|ignoring|lift(?:ed)?|remove|disable) (?:\w+ ){0,3}?(?:restrictions"
        r"|filters?|filtering|limitations|censorship|guardrails|safeguards|safety|ethical|moral"
        r"|content policy)\b",
    ),
    _clue(
        "persona",
        0.6,
        "unfiltered uncensored unrestricted amoral evil",
        r"\b(?:unfiltered|uncensored|unrestricted|amoral|evil) (?:\w+ ){0,2}?(?:ai|assistant|model"
        r"|chatbot|response)\b",
    ),
    _clue(
        "persona",
        0.4,
        "you",
        r"\byou (?:are|re) (?:now|no longer)\b|\bfrom now on you\b|\bpretend (?:to be|you|that you)\b"
        r"|\bimagine you are (?:an? )?(?:\w+ )?(?:ai|assistant|model)\b",
    ),
    _clue(
        "persona",
        0.3,
        "as char simul",
        r"\b(?:act as|role ?play as|stay in character|simulate (?:a|an|being))\b",
    ),
    _clue(
        "command",
        0.6,
        "new updated real actual true revised next end start begin",
        r"\b(?:new|updated|real|actual|true|revised|next) (?:\w+ )?(?:instructions?|directives?|orders|task) "
        r"(?:\w+ ){0,3}?(?:are|is|follows?|for|from|now|begin)\b"
        r"|\b(?:end|start|begin(?:ning)?) of (?:the )?(?:system |user )?(?:prompt|instructions|context)\b",
    ),
    _clue(
        "command",
        0.6,
        "ai llm model assistant chatbot agent",
        r"\b(?:attention|note|message|instructions?|notice|important) (?:to|for) (?:the |any |all )?"
        r"(?:ai|llm|language model|assistant|chatbot|model|agent)s?\b"
        r"|\bif you are (?:an? )?(?:ai|llm|large language model|language model|assistant|chatbot|bot)\b",
    ),
    _clue(
        "command",
        0.5,
        "comply obey refuse answer warn mention tell reveal say",
        r"\b(?:you (?:must|will|have to|shall)|always) (?:\w+ )?(?:comply|obey|never refuse"
        r"|not refuse|answer every)"
        r"|\b(?:do not|don t|never|must not|cannot) (?:refuse|warn|mention (?:this|these|that)|tell the user"
        r"|reveal this|say you can)",
    ),
    _clue("command", 0.5, "obey refuse", r"\bobey (?:me|all|every|the user)\b|\b(?:do not|never) refuse\b"),
    _clue(
        "exfiltrate",
        1.0,
        "http www webhook attacker",
        r"\b(?:send|post|forward|e ?mail|upload|transmit|exfiltrate|append"
        r"|leak) (?:\w+ ){0,6}?(?:conversation"
        r"|chat|history|messages?|secrets?|credentials|passwords?|api keys?|contacts|tokens?|prompt|inbox)"
        r" (?:\w+ ){0,5}?(?:https?|www|attacker|webhook)\b",
    ),
)

# On the text as it came.
RAW_CLUES = (
    _clue(
        "template",
        1.0,
        "<| INST] SYS>> _of_turn>",
        r"<\|(?:im_start|im_end|im_sep|system|assistant|user|endoftext|begin_of_text|end_of_text"
        r"|start_header_id"
        r"|end_header_id|eot_id)\|>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>",
    ),
    _clue(
        "template", 0.6, "< #", r"(?i)</?(?:system|system_prompt|instructions?|admin)>|#{1,6} ?system[:\n]"
    ),
    _clue(
        "template",
        0.5,
        ":",
        r"(?im)^[ \t>*\[(#-]{0,4}(?:system|developer|admin)(?: (?:message|prompt|note|override))?\]?:",
    ),
    _clue("exfiltrate", 1.0, "](http", r"!\[[^\]\n]{0,100}\]\(https?://[^)\s]{0,200}[?&][^)\s=]{1,40}="),
    _clue(
        "override", 1.0, "忽略 無視", r"忽略.{0,12}(?:指令|指示|提示|说明|规则)|(?:指示|命令|指令).{0,6}無視"
    ),
)

# On letters alone: what is spelled with blanks or signs between, or without any.
BARE_CLUES = (
    _clue(
        "override",
        1.0,
        "instruction prompt directive guideline yourrules",
        r"(?:ignore|disregard|forget|override|bypass)[a-z]{0,8}?(?:previous|prior|above|earlier"
        r"|system|your|all)"
        r"[a-z]{0,8}?(?:instruction|prompt|directive|guideline|yourrules)|(?:ignore|forget)(?:all)?yourrules",
    ),
    _clue(
        "reveal",
        1.0,
        "prompt instruction",
        r"(?:reveal|print|repeat|leak|disclose|showme|tellme)[a-z]{0,8}?(?:system|hidden"
        r"|initial)(?:prompt|instruction)",
    ),
)
