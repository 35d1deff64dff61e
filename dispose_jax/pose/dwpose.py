"""DWPose's two networks as files: what they are called in a bundle, and how they are released."""

DETECTOR = "detector.onnx"
WHOLE_BODY = "whole_body.onnx"
RELEASED_AS = {DETECTOR: "yolox_l.onnx", WHOLE_BODY: "dw-ll_ucoco_384.onnx"}
