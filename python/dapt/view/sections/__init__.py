"""The sections of a report: each turns the findings into markup."""

from dapt.view.findings import Findings
from dapt.view.sections import errors, inside, scores, settings
from dapt.view.sections.parts import Section, words
from dapt.view.sections.scores import summary_table

__all__ = ["Section", "all_sections", "summary_table", "words"]


def all_sections(findings: Findings) -> list[Section]:
    """The sections that have something to say.

    Args:
        findings: The findings of the runs.
    """
    writers = (*scores.WRITERS, *errors.WRITERS, *inside.WRITERS, *settings.WRITERS)
    return [section for write in writers if (section := write(findings)) is not None]
