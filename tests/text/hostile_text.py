"""Texts that tokenizers get wrong: seeded, mixed from many scripts, spaces, marks, digits, code and special tokens."""
import random

SPACES = [" ", "  ", "   ", "\n", "\n\n", "\r\n", "\r", "\t", "\u00a0", "\u2003", "\u3000", "\u2028", "\u0085", "\x0b",
          "\x0c", "\x1c", "\u180e", "\u200b", "\ufeff", "\u1680", " \n", "\n ", "\t \n  "]
WORDS = ["hello", "World", "the", "tokenizer", "don't", "I'M", "we'Re", "they'LL", "it's", "'s", "'S", "'\u017f", "\u017f",
         "'d", "'ve", "na\u00efve", "stra\u00dfe", "\u0130stanbul", "fa\u00e7ade", "e\u0301", "\ufb01n", "\u01c5", "\u00e5ngstr\u00f6m",
         "x=y+1;", "foo_bar", "CamelCase", "HTTPServer", "a.b.c", "//comment", "{\"k\": [1, 2]}", "<br/>", "http://a.b/c?d=e#f",
         "\u65e5\u672c\u8a9e", "\u4e2d\u6587\u5b57\u7b26", "\ud55c\uad6d\uc5b4", "\u0440\u0443\u0441\u0441\u043a\u0438\u0439", "\u0627\u0644\u0639\u0631\u0628\u064a\u0629", "\u0939\u093f\u0928\u094d\u0926\u0940", "\u0e44\u0e17\u0e22",
         "\U0001f642", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f1fa\U0001f1f8", "\u2764\ufe0f", "\u00bd", "\u2460\u2461", "\u0663\u0664", "\U0001d7d8\U0001d7d9",
         "12", "1234567", "3.14159", "1,000,000", "0x1F", "\u2167", "\u00b2\u00b3", "!!!", "...", "\u2026", "\u3002\u3001", "---", "$%^&*", "=>", "\u20ac100",
         "\u2581", "\u2581\u2581", "\u0120", "\u010a", "<0x0A>", "<unk>", "\u00ad", "A\u030a", "\u1e9b\u0323", "\uac00\u11a8", "\u1100\u1161", "\u0344", "\u212b", "\u2126"]
RANGES = [(0x20, 0x7e, 12), (0x80, 0xff, 6), (0x100, 0x24f, 4), (0x250, 0x36f, 4), (0x370, 0x5ff, 3), (0x600, 0x1fff, 6),
          (0x2000, 0x2bff, 5), (0x2c00, 0x2fff, 1), (0x3000, 0x33ff, 3), (0x3400, 0x9fff, 4), (0xa000, 0xd7a3, 3), (0xe000, 0xf8ff, 1),
          (0xf900, 0xffff, 3), (0x10000, 0x11fff, 4), (0x12000, 0x16fff, 2), (0x17000, 0x1afff, 1), (0x1b000, 0x1efff, 3),
          (0x1f000, 0x1fbff, 4), (0x20000, 0x323af, 1), (0xe0000, 0xe01ef, 1), (0x1, 0x1f, 1)]
WEIGHTS = [r[2] for r in RANGES]


def texts(count, seed, special=(), unassigned=None):
    """`count` texts. `special`: tokens to sprinkle in. `unassigned(code point)`: true for what to leave out."""
    rng = random.Random(seed)
    out = []
    while len(out) < count:
        parts = []
        for _ in range(rng.choice([1, 2, 3, 5, 8, 13])):
            kind = rng.random()
            if kind < 0.40:
                parts.append(rng.choice(WORDS))
            elif kind < 0.62:
                parts.append(rng.choice(SPACES) * rng.choice([1, 1, 1, 2, 5]))
            elif kind < 0.90:
                low, high, _ = rng.choices(RANGES, WEIGHTS)[0]
                chars = [rng.randint(low, high) for _ in range(rng.choice([1, 1, 2, 4]))]
                parts.append("".join(chr(c) for c in chars if not 0xd800 <= c <= 0xdfff and not (unassigned and unassigned(c))))
            elif kind < 0.95 and special:
                parts.append(rng.choice(special))
            else:
                parts.append(rng.choice("ab \u00e91'") * rng.choice([1, 7, 40]))
            if rng.random() < 0.35:
                parts.append(" ")
        text = "".join(parts)
        if text:
            out.append(text)
    return out


def corpus(count, seed):
    """Text to train small vocabularies on: words in many forms, so that merges of several characters come to be."""
    rng = random.Random(seed)
    stems = ["token", "model", "serve", "hello", "world", "stream", "block", "page", "worker", "\u65e5\u672c", "\u8a9e\u6587", "\u0440\u0443\u0441", "na\u00efve", "\u00fcber",
             "the", "and", "ing", "tion", "http", "self", "return", "import", "def", "12", "2024", "000"]
    out = []
    for _ in range(count):
        words = []
        for _ in range(rng.randint(3, 15)):
            word = "".join(rng.choice(stems) for _ in range(rng.choice([1, 1, 2])))
            word = rng.choice([word, word.capitalize(), word.upper(), word + rng.choice(["'s", "'ll", "ed", ".", ",", "!", "\n", "  ", "\t"])])
            words.append(word)
        out.append(" ".join(words))
    return out + texts(count // 4, seed + 1)
