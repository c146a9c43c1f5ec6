"""A plausible Azure Kinect's calibration, made for tests: round numbers, no device's own."""

from __future__ import annotations

import json
import math
from typing import Any


def made_calibration() -> dict[str, Any]:
    angle = math.radians(5)
    cos, sin = math.cos(angle), math.sin(angle)
    brown = "CALIBRATION_LensDistortionModelBrownConrady"

    def camera(location: str, width: int, height: int, model: list[float], rt: Any) -> Any:
        return {
            "Intrinsics": {
                "ModelParameterCount": 14,
                "ModelParameters": model,
                "ModelType": brown,
            },
            "Location": f"CALIBRATION_CameraLocation{location}",
            "MetricRadius": 1.74 if location == "D0" else 0,
            "Rt": {"Rotation": rt[0], "Translation": rt[1]},
            "SensorWidth": width,
            "SensorHeight": height,
        }

    depth = [0.51, 0.515, 0.49, 0.491, 0.55, -0.02, -0.003, 0.89, 0.086, -0.014, 0, 0, -7e-5, 2e-5]
    color = [0.5, 0.507, 0.478, 0.637, 0.33, -2.49, 1.45, 0.21, -2.3, 1.375, 0, 0, -1e-4, -2e-4]
    turned = [1.0, 0.0, 0.0, 0.0, cos, sin, 0.0, -sin, cos]
    return {
        "CalibrationInformation": {
            "Cameras": [
                camera("D0", 1024, 1024, depth, ([1, 0, 0, 0, 1, 0, 0, 0, 1], [0, 0, 0])),
                camera("PV0", 4096, 3072, color, (turned, [-0.032, -0.002, 0.004])),
            ],
            "InertialSensors": [],
        }
    }


def device_json() -> bytes:
    return json.dumps(made_calibration(), separators=(",", ":")).encode()
