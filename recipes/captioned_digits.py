"""α-Flow from sentences to digits: "a seven", "the number after six"; read byte by byte."""

import alphaflow as af

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
FORMS = {
    0: ("{}", "a {}", "the digit {}", "draw a {}"),
    1: ("the number after {}", "what follows {}", "one more than {}"),
    -1: ("the number before {}", "one less than {}"),
}


def sentences() -> list[tuple[str, int]]:
    """Each sentence, and the digit that it means."""
    forms = [(form, more) for more, several in FORMS.items() for form in several]
    named = [(form.format(word), n + more) for form, more in forms for n, word in enumerate(WORDS)]
    return [(text, digit) for text, digit in named if 0 <= digit <= 9]


def recipe(
    *,
    steps: int = 6000,  # Number of training steps.
    batch_size: int = 128,  # Number of digits in each batch.
    lr: float = 1e-3,  # Learning rate; it falls to 0 in the second half.
) -> af.Recipe:
    """Every digit with every sentence that means it, but for one sentence in seven, which training never sees."""
    digits, encoder = af.Digits().all(), af.ByteText(length=24)
    known = [sentence for i, sentence in enumerate(sentences()) if i % 7 != 4]
    rows = [
        (i, k) for k, (_, digit) in enumerate(known) for i in (digits.cond.labels == digit).nonzero()[:, 0].tolist()
    ]
    which, said = map(list, zip(*rows, strict=True))
    tokens, mask = encoder.encode([text for text, _ in known])
    return af.Recipe(
        model=af.DiT((1, 8, 8), patch=4, depth=4, width=128, heads=4, vocabulary=256),
        objective=af.AlphaFlow(alpha=af.Sigmoid(end=steps), fm_share=0.25, weighting=af.AdaptiveWeighting(p=0.5)),
        dataset=af.Arrays(digits.x[which], tokens=tokens[said], mask=mask[said], batch_size=batch_size),
        samplers=[af.ODE(nfe) for nfe in (1, 2, 4)],
        steps=steps,
        lr=af.Linear(start=steps // 2, end=steps, first=lr, last=0.0),
        ema=0.999,
    )
