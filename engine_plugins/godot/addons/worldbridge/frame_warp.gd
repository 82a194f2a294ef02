extends RefCounted
## Turns the newest frame to the display's present camera, so that looking around responds at the
## display's rate whatever the world's. Only the rotation: movement waits for the next frame.

const Coordinates = preload("core/coordinates.gd")

var material := ShaderMaterial.new()


func _init() -> void:
	material.shader = preload("frame_warp.gdshader")


## Warp from the frame's camera to the display's. The fields of view are vertical, in degrees; `aspect`
## is width / height of frame and display.
func aim(frame: Transform3D, frame_fov_y: float, display: Transform3D, fov_y: float,
		aspect: float) -> void:
	material.set_shader_parameter("to_frame", Coordinates.rotation_homography(frame, display))
	material.set_shader_parameter("display_tangents", tangents(fov_y, aspect))
	material.set_shader_parameter("frame_tangents", tangents(frame_fov_y, aspect))


## Return the tangents of half the fields of view, horizontal and vertical.
static func tangents(fov_y: float, aspect: float) -> Vector2:
	var vertical := tan(deg_to_rad(fov_y) / 2.0)
	return Vector2(vertical * aspect, vertical)
