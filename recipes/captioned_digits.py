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
    return [(form.format(word), n + more) for form, more in forms for n, word in enumerate(WORDS) if 0 <= n + more <= 9]


def recipe(
    *,
    steps: int = 6000,  # Number of training steps.
    batch_size: int = 128,  # Number of digits in each batch.
) -> af.Recipe:
    """Every digit with every sentence that means it, but for one sentence in seven, which training never sees."""
    digits, encoder = af.Digits().all(), af.ByteText(length=24)
    labels = digits.cond.tensors["labels"]
    known = [sentence for i, sentence in enumerate(sentences()) if i % 7 != 4]
    which, said = labels[:, None].eq(labels.new_tensor([digit for _, digit in known])).nonzero(as_tuple=True)
    tokens, mask = encoder.encode([text for text, _ in known])
    return af.Recipe(
        model=af.DiT((1, 8, 8), patch=4, depth=4, width=128, heads=4, vocabulary=256),
        objective=af.AlphaFlow(alpha=af.Sigmoid(end=steps), fm_share=0.25, weighting=af.AdaptiveWeighting(p=0.5)),
        dataset=af.Arrays(
            digits.x[which], batch_size=batch_size, text_encoder=encoder, tokens=tokens[said], mask=mask[said]
        ),
        samplers=[af.ODE(nfe) for nfe in (1, 2, 4)],
        steps=steps,
        lr=af.Linear(start=steps // 2, end=steps, first=1e-3, last=0.0),
        ema=0.999,
    )
