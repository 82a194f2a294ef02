extends MeshInstance3D
## Fills a Camera3D's view with a world, so that the scene's own objects stand in it: with depth they
## are hidden by the world's walls, without depth they stand in front of it.

const FrameWarp = preload("frame_warp.gd")
const WorldStream = preload("world_stream.gd")

const LAYER := 1 << 19 # the 20th: what a WorldGuide sends is the scene without the world

## Where the frames come from. Its `want_depth` should be on.
@export var stream: WorldStream
## The camera whose view is filled.
@export var camera: Camera3D
## Move `camera` to where each frame is seen from: for worlds that do not follow the scene's camera.
@export var drive_camera := false
## Reproject each frame to the present camera, so that looking around and walking respond at the display's
## rate whatever the world's.
@export var reproject := true
## Share of its distance by which the world's surfaces stand farther: where a WorldGuide sends the scene,
## the scene's own surfaces are then in front of what it shows of them.
@export_range(0.0, 0.5) var recede := 0.0

var _material := ShaderMaterial.new()


func _init() -> void:
	process_priority = 100  # after the stream, and after whatever moves the camera
	_material.shader = preload("world_backdrop.gdshader")
	var quad := QuadMesh.new()
	quad.material = _material
	mesh = quad
	# The shader places the quad: it must not be culled for where the node stands.
	custom_aabb = AABB(Vector3.ONE * -1e6, Vector3.ONE * 2e6)
	layers = LAYER
	cast_shadow = GeometryInstance3D.SHADOW_CASTING_SETTING_OFF


func _process(_delta: float) -> void:
	visible = stream != null and stream.texture != null and camera != null \
			and camera.is_inside_tree()
	if not visible:
		return
	var seen_from := stream.frame_transform()
	if drive_camera:
		camera.global_transform = seen_from
		camera.keep_aspect = Camera3D.KEEP_HEIGHT
		camera.fov = stream.frame_pose["fov_y"]
	var size := stream.texture.get_size()
	var to_frame := seen_from.affine_inverse() * camera.global_transform.orthonormalized() \
			if reproject else Transform3D()
	_material.set_shader_parameter("frame", stream.texture)
	_material.set_shader_parameter("frame_depth", stream.depth_texture)
	_material.set_shader_parameter("depth_scale", stream.depth_scale if stream.depth_texture else 0.0)
	_material.set_shader_parameter("to_frame", Projection(to_frame))
	_material.set_shader_parameter("moved", to_frame.origin.length() > 1e-3)
	_material.set_shader_parameter("frame_tangents",
			FrameWarp.tangents(stream.frame_pose["fov_y"], size.x / size.y))
	_material.set_shader_parameter("recede", recede)
	_material.set_shader_parameter("far", 0.99 * camera.far)
