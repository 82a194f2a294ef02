extends Node
## Sends what a camera of the scene sees, colour and depth, to a world that takes `observations`: the
## world joins it to its memory and draws what the scene leaves open.

const Coordinates = preload("core/coordinates.gd")
const WorldStream = preload("world_stream.gd")

const REACH := 130.0 # metres: what is farther counts as the sky
const DEPTH_SCALE := 0.002 # metres per step of the depth
const DEPTH_LAYER := 1 << 24 # beyond the 20 layers of the editor: no camera of the scene sees it
const MAX_PIXELS := 384 * 640 # of the protocol

## The world that is given the scene. Its `camera` should be the same.
@export var stream: WorldStream
## The camera whose view is sent.
@export var camera: Camera3D
## The scene's layers that are sent; a WorldBackdrop is on layer 20.
@export_flags_3d_render var layers := 0x7FFFF
## Let the world forget what it drew before, at the first view of each session.
@export var fresh := true
## Seconds between two views, sent while the camera moves; 0: only `send_view` sends.
@export var interval := 0.5
## Metres that the camera moves, or radians that it turns, before its next view is sent.
@export var step := 0.1

## Views that were sent.
var sent := 0

var _color := SubViewport.new()
var _depth := SubViewport.new() # its digits
var _bytes := SubViewport.new() # and what is sent of them
var _rect := ColorRect.new()
var _material := ShaderMaterial.new()
var _seconds := INF # since the last view
var _last := Transform3D()
var _rendering := false
var _begun := false # this session has a view


func _init() -> void:
	for viewport: SubViewport in [_color, _depth]:
		viewport.add_child(Camera3D.new())
	add_child(_color)
	add_child(_bytes)
	_bytes.add_child(_depth) # so it is drawn before
	_material.shader = preload("scene_depth.gdshader")
	_material.set_shader_parameter("depth_scale", DEPTH_SCALE)
	var quad := MeshInstance3D.new()
	quad.mesh = QuadMesh.new()
	quad.material_override = _material
	quad.custom_aabb = AABB(Vector3.ONE * -1e6, Vector3.ONE * 2e6)
	quad.layers = DEPTH_LAYER
	_depth.add_child(quad)
	var plain := Environment.new() # without glow, fog and tone mapping
	plain.background_mode = Environment.BG_COLOR
	_depth.get_child(0).environment = plain
	var bytes := ShaderMaterial.new()
	bytes.shader = preload("depth_bytes.gdshader")
	bytes.set_shader_parameter("digits", _depth.get_texture())
	_rect.material = bytes
	_bytes.add_child(_rect)


## Return whether the world takes views: its conditionings name `observations`.
func is_taken() -> bool:
	return stream != null and "observations" in stream.spec.get("conditionings", [])


func _process(delta: float) -> void:
	_seconds += delta
	if stream == null or stream.state != "playing":
		_begun = _begun and stream != null and stream.state == "reconnecting"
		return
	if interval > 0.0 and _seconds >= interval and is_taken() and (not _begun or _moved()):
		send_view()


## Render the scene from `camera` and send it. Nothing is sent while another view is rendered, or to a
## world that takes none.
func send_view() -> void:
	if _rendering or not is_taken() or camera == null or not camera.is_inside_tree():
		return
	_rendering = true
	_seconds = 0.0
	_last = camera.global_transform.orthonormalized()
	var fov := stream.vertical_fov(camera)
	# The world has its own shape of frame: a view of another one would be squeezed into it.
	var size := Vector2(stream.spec["width"], stream.spec["height"])
	size = (size * minf(1.0, sqrt(MAX_PIXELS / (size.x * size.y)))).floor()
	for viewport: SubViewport in [_color, _depth, _bytes]:
		viewport.size = Vector2i(size)
		viewport.render_target_update_mode = SubViewport.UPDATE_ONCE
	_rect.size = size
	_aim(_color.get_child(0), fov, layers)
	_aim(_depth.get_child(0), fov, layers | DEPTH_LAYER)
	_material.set_shader_parameter("far", minf(camera.far, REACH))
	await RenderingServer.frame_post_draw
	_rendering = false
	if is_taken() and stream.state == "playing":
		stream.observe(_color.get_texture().get_image(), _bytes.get_texture().get_image(),
				DEPTH_SCALE, _last, fov, fresh and not _begun)
		_begun = true
		sent += 1


func _moved() -> bool:
	var now := camera.global_transform.orthonormalized()
	return now.origin.distance_to(_last.origin) > step \
			or now.basis.get_rotation_quaternion().angle_to(_last.basis.get_rotation_quaternion()) > step


func _aim(eye: Camera3D, fov: float, seen: int) -> void:
	eye.global_transform = _last
	eye.keep_aspect = Camera3D.KEEP_HEIGHT
	eye.fov = fov
	eye.near = camera.near
	eye.far = minf(camera.far, REACH)
	eye.cull_mask = seen
	eye.current = true
