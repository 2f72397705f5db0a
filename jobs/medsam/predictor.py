"""stub"""
from sam2.sam2_video_predictor import SAM2VideoPredictor


class Segmenter(SAM2VideoPredictor):
    settings: dict
