"""The one exception of the twin room."""


class TwinError(ValueError):
    """Input or result that the twin refuses, with a sentence for a person and a code for a machine.

    Parameters
    ----------
    code : str
        Short stable identifier, for instance ``"no_tumour"``.
    message : str
        One sentence that names what is wrong and what to do.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
