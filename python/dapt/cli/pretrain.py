"""`dapt pretrain`: pre-train a backbone by hiding patches."""

from dapt.cli.completion import complete, is_asked
from dapt.runs.settings import PRETRAINING, parse, parser_of


def run(argv: list[str]) -> None:
    """Run `dapt pretrain`.

    Args:
        argv: The command-line arguments.
    """
    if is_asked():
        complete(parser_of("dapt pretrain", argv, PRETRAINING))
    settings = parse("dapt pretrain", argv, PRETRAINING, "Pre-train a backbone by hiding patches.")
    from dapt.runs.processes import is_first_process
    from dapt.training.loop import train

    result = train(settings)
    if not is_first_process():
        return
    print(f"validation loss {result['validation_loss']:.6f} (epoch {result['best_epoch'] + 1})")
    print(f"backbone: {settings.training.out}/backbone.safetensors")
