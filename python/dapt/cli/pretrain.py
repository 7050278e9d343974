"""`dapt pretrain`: train a backbone by hiding patches."""

from dapt.cli.completion import complete, is_asked
from dapt.runs.settings import PRETRAINING, parse, parser_of


def run(argv: list[str]) -> None:
    """`dapt pretrain`.

    Args:
        argv: the words behind it.
    """
    if is_asked():
        complete(parser_of("dapt pretrain", argv, PRETRAINING))
    settings = parse("dapt pretrain", argv, PRETRAINING, "Train a backbone by hiding patches.")
    from dapt.runs.processes import is_first_process
    from dapt.training.loop import train

    result = train(settings)
    if not is_first_process():
        return
    print(f"validation loss {result['validation_loss']:.6f} (epoch {result['best_epoch'] + 1})")
    print(f"backbone: {settings.training.out}/backbone.safetensors")
