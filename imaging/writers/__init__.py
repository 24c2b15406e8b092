"""What a run leaves behind: DICOM objects, ``result.json`` and the folder that appears whole or not at all."""
