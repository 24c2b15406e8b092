"""DICOM in, geometry, registration and DICOM out. Knows no growth model, no network and no Holoscan."""
