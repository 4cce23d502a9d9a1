"""What the page of ``explore`` is made of: a decoder as plain operations, encoded images, a template."""
