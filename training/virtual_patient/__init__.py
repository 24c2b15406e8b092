"""A simulated glioma patient: anatomy, growth, contrasts, scanner and DICOM."""
