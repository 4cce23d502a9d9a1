"""The page of ``explore``: a decoder in JavaScript, encoded test images and a template."""
