"""Procedural worlds: seeded first-person 3D scenes with exact camera poses.

They are the training data and the ground truth of the neural world model, and a world to play
on their own.
"""

from worldbridge.models.procedural.camera import CameraState, camera_pose, spawn, step_camera
from worldbridge.models.procedural.policy import random_walk
from worldbridge.models.procedural.render import render, render_batch
from worldbridge.models.procedural.scene import THEMES, Scene, build_scene, soften

__all__ = [
    "THEMES",
    "CameraState",
    "Scene",
    "build_scene",
    "camera_pose",
    "random_walk",
    "render",
    "render_batch",
    "soften",
    "spawn",
    "step_camera",
]
