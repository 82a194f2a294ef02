extends SceneTree
## Sends views of a scene with a WorldGuide: `godot --path PROJECT --script THIS -- SERVER [SECONDS]`. The scene is
## a red wall 4 m ahead on the left half of the view, and nothing else; then the camera steps back by
## 1 m. Ends after two views, or after SECONDS. Prints GUIDE {"sent", "frame_at"}: how many views were sent,
## and where the newest frame is seen from in the scene's coordinates.

const WorldBackdrop = preload("res://addons/worldbridge/world_backdrop.gd")
const WorldGuide = preload("res://addons/worldbridge/world_guide.gd")
const WorldStream = preload("res://addons/worldbridge/world_stream.gd")

const EYE := Vector3(10, 1.6, 20)

var _stream := WorldStream.new()
var _camera := Camera3D.new()
var _guide := WorldGuide.new()
var _backdrop := WorldBackdrop.new()


func _initialize() -> void:
	Engine.max_fps = 60
	_stream.server = OS.get_cmdline_user_args()[0]
	_stream.camera = _camera
	_stream.want_depth = true
	_backdrop.stream = _stream
	_backdrop.camera = _camera
	_guide.stream = _stream
	_guide.camera = _camera
	_guide.interval = 0.1
	_camera.fov = 60
	var wall := MeshInstance3D.new()
	wall.mesh = QuadMesh.new()
	wall.mesh.size = Vector2(100, 100)
	wall.material_override = StandardMaterial3D.new()
	wall.material_override.shading_mode = BaseMaterial3D.SHADING_MODE_UNSHADED
	wall.material_override.albedo_color = Color8(200, 40, 30)
	for node: Node in [_stream, _camera, _guide, _backdrop, wall]:
		root.add_child(node)
	_camera.position = EYE
	wall.position = EYE + Vector3(-50, 0, -4)
	_run.call_deferred()


func _run() -> void:
	await _views(1)
	_camera.position += Vector3.BACK
	await _views(2)
	var at: Vector3 = _stream.frame_transform().origin
	print("GUIDE " + JSON.stringify({"sent": _guide.sent, "frame_at": [at.x, at.y, at.z]}))
	_stream.free()
	quit(0)


func _views(count: int) -> void:
	var arguments := OS.get_cmdline_user_args()
	var end := INF if arguments.size() < 2 else float(arguments[1])
	while _guide.sent < count and Time.get_ticks_msec() / 1000.0 < end:
		await process_frame
