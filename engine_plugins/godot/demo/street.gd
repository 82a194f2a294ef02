extends Node3D
## A grey room of the scene's own, whose door opens into a street that the world draws:
## `godot --path . res://demo/street.tscn -- --server=127.0.0.1:8080 [--theme=city] [--seed=1]
## [--walk=METRES] [--screenshot=FILE --after=FRAMES]`. W, A, S and D walk, the arrow keys turn; with
## `walk` the camera walks out by itself.

const SPEED := 1.5 # metres per second
const TURN := 1.2 # radians per second
# The room's boxes: centre and size in metres. The door is in the wall ahead.
const BOXES: Array[Array] = [
	[Vector3(0, -0.05, -0.6), Vector3(5, 0.1, 5.8)], # floor, and a step outside
	[Vector3(0, 2.85, -0.5), Vector3(5, 0.1, 5)],
	[Vector3(-2.5, 1.4, -0.5), Vector3(0.1, 2.8, 5)],
	[Vector3(2.5, 1.4, -0.5), Vector3(0.1, 2.8, 5)],
	[Vector3(0, 1.4, 2), Vector3(5, 2.8, 0.1)],
	[Vector3(-1.65, 1.4, -3), Vector3(1.7, 2.8, 0.2)], # beside the door and above it
	[Vector3(1.65, 1.4, -3), Vector3(1.7, 2.8, 0.2)],
	[Vector3(0, 2.5, -3), Vector3(1.6, 0.6, 0.2)],
	[Vector3(-1.7, 0.4, -1.6), Vector3(0.8, 0.8, 0.8)], # a table and a chest
	[Vector3(1.9, 0.3, -2.2), Vector3(0.7, 0.6, 1.2)],
]

@onready var _stream: Node = $WorldStream
@onready var _guide: Node = $WorldGuide
@onready var _camera: Camera3D = $Camera
@onready var _label: Label = $Label

var _options := {}
var _walked := 0.0


func _ready() -> void:
	for argument in OS.get_cmdline_user_args():
		var parts := argument.trim_prefix("--").split("=", true, 1)
		_options[parts[0]] = parts[1] if parts.size() > 1 else ""
	for box in BOXES:
		var part := MeshInstance3D.new()
		part.mesh = BoxMesh.new()
		part.mesh.size = box[1]
		part.mesh.material = StandardMaterial3D.new()
		part.mesh.material.albedo_color = Color(0.62, 0.62, 0.6)
		part.position = box[0]
		add_child(part)
	_stream.server = _options.get("server", _stream.server)
	_stream.theme = _options.get("theme", "")
	_stream.world_seed = int(_options.get("seed", "-1"))
	_stream.failed.connect(func(code: String, message: String, remedy: String) -> void:
		_label.text = "%s: %s. %s" % [code, message, remedy])
	_stream.welcomed.connect(func(_world: Dictionary) -> void:
		_label.text = "" if _guide.is_taken() else \
				"This world takes no views of the scene: the door shows whatever it draws.")
	_stream.frame_shown.connect(_on_frame_shown)
	_stream.play()


func _process(delta: float) -> void:
	_camera.rotate_y(TURN * delta * Input.get_axis("ui_right", "ui_left"))
	var move := Vector3(_held(KEY_D) - _held(KEY_A), 0, _held(KEY_S) - _held(KEY_W))
	if _guide.sent > 0 and _walked < float(_options.get("walk", "0")):
		move = Vector3.FORWARD
		_walked += SPEED * delta
	_camera.translate_object_local(SPEED * delta * move)


func _held(key: Key) -> float:
	return 1.0 if Input.is_physical_key_pressed(key) else 0.0


func _on_frame_shown(_header: Dictionary) -> void:
	if not _options.has("screenshot") or _stream.statistics()["shown"] != int(_options.get("after", "60")):
		return
	await RenderingServer.frame_post_draw
	get_viewport().get_texture().get_image().save_png(_options["screenshot"])
	get_tree().quit()
