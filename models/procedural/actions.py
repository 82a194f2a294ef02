"""What one action step means, in metres and degrees.

An action is one number in [-1, 1] for each of `ACTION_NAMES`, a fraction of the largest step that a
player can make in one frame: strafe +1 is right, forward +1 is ahead, yaw +1 turns left,
pitch +1 looks up.
"""

FRAMES_PER_SECOND = 15
ACTION_NAMES: tuple[str, ...] = ("strafe", "forward", "yaw", "pitch")
# The first ones are those that the bundled worlds were trained with; they take no others.
TRAINED_ACTIONS: tuple[str, ...] = ("strafe", "forward", "yaw", "pitch")

MAX_STRAFE_M = 0.12
MAX_WALK_M = 0.16
MAX_YAW_DEG = 5.0
MAX_PITCH_DEG = 3.0
PITCH_LIMIT_DEG = 25.0

EYE_HEIGHT_M = 1.6
BODY_RADIUS_M = 0.35

FOV_Y_DEG = 50.0
IMAGE_HEIGHT = 320
IMAGE_WIDTH = 512
