"""Other libraries' names on mer_fast's kernels: a script changes one import.

`from mer_fast.compat import cv2` in place of `import cv2`: Farneback and DualTVL1 flow run here, all else is OpenCV's own.
"""
