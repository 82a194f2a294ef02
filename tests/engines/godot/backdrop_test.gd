extends SceneTree
## Shows the frames of a server in a WorldBackdrop: `godot --path PROJECT --script THIS -- SERVER
## FOLDER LAST POSES BALL`. After the frame numbered LAST it turns the camera to each of POSES (as JSON),
## writes what the very next refresh shows to FOLDER/reprojected-0.png and so on, and FOLDER/ball.png, the view from the frame's camera with a magenta
## ball at BALL (x, y, z and radius as JSON) in the world. Prints DONE.

const Coordinates = preload("res://addons/worldbridge/core/coordinates.gd")
const WorldBackdrop = preload("res://addons/worldbridge/world_backdrop.gd")
const WorldStream = preload("res://addons/worldbridge/world_stream.gd")

var _arguments := OS.get_cmdline_user_args()
var _stream := WorldStream.new()
var _camera := Camera3D.new()
var _backdrop := WorldBackdrop.new()
var _header := {}


func _initialize() -> void:
	Engine.max_fps = 60
	_stream.server = _arguments[0]
	_stream.want_depth = true
	_stream.frame_shown.connect(func(header: Dictionary) -> void: _header = header)
	_stream.failed.connect(func(code: String, message: String, _remedy: String) -> void:
		printerr("%s: %s" % [code, message]))
	_backdrop.stream = _stream
	_backdrop.camera = _camera
	for node: Node in [_stream, _camera, _backdrop]:
		root.add_child(node)
	_run.call_deferred()


func _run() -> void:
	while _header.is_empty() or int(_header["frame"]) != int(_arguments[2]):
		await process_frame
	var size := Vector2i(_stream.texture.get_size())
	root.content_scale_mode = Window.CONTENT_SCALE_MODE_DISABLED
	root.size = size
	_look_from(_header["camera"])
	await _frames(4)
	var poses: Array = JSON.parse_string(_arguments[3])
	for i in poses.size():
		_look_from(poses[i])
		await _save("reprojected-%d.png" % i)
		await process_frame
	var ball: Array = JSON.parse_string(_arguments[4])
	var mesh := SphereMesh.new()
	mesh.radius = ball[3]
	mesh.height = 2.0 * mesh.radius
	var material := StandardMaterial3D.new()
	material.shading_mode = BaseMaterial3D.SHADING_MODE_UNSHADED
	material.albedo_color = Color(1, 0, 1)
	mesh.material = material
	var node := MeshInstance3D.new()
	node.mesh = mesh
	root.add_child(node)
	node.global_position = Vector3(ball[0], ball[1], ball[2])
	_backdrop.drive_camera = true
	await _frames(4)
	await _save("ball.png")
	print("DONE")
	quit(0)


func _look_from(pose: Dictionary) -> void:
	_camera.global_transform = Coordinates.from_pose(pose)
	_camera.fov = pose["fov_y"]


# Return at the start of a frame, before the nodes' _process.
func _frames(count: int) -> void:
	for i in count:
		await process_frame


func _save(name: String) -> void:
	await RenderingServer.frame_post_draw
	root.get_texture().get_image().save_png(_arguments[1] + "/" + name)
