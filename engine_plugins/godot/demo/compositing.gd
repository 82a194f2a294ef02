extends Node3D
## A ball of the scene's own rolls from side to side in a world, and goes behind its walls:
## `godot --path . res://demo/compositing.tscn -- --server=127.0.0.1:8080 [--theme=city] [--seed=1]
## [--distance=10] [--screenshot=FILE --after=FRAMES]`. W, A, S, D and the arrow keys steer.

const RADIUS := 0.8 # metres
const REACH := 4.0 # metres to each side
const SECONDS := 6.0 # there and back

@onready var _stream: Node = $WorldStream
@onready var _ball: MeshInstance3D = $Ball
@onready var _label: Label = $Label

var _options := {}
var _place := Transform3D() # of the middle of the ball's way
var _seconds := 0.0


func _ready() -> void:
	for argument in OS.get_cmdline_user_args():
		var parts := argument.trim_prefix("--").split("=", true, 1)
		_options[parts[0]] = parts[1] if parts.size() > 1 else ""
	var mesh := SphereMesh.new()
	mesh.radius = RADIUS
	mesh.height = 2.0 * RADIUS
	mesh.material = StandardMaterial3D.new()
	mesh.material.albedo_color = Color(0.95, 0.3, 0.1)
	_ball.mesh = mesh
	_ball.visible = false
	_stream.server = _options.get("server", _stream.server)
	_stream.theme = _options.get("theme", "")
	_stream.world_seed = int(_options.get("seed", "-1"))
	_stream.failed.connect(func(code: String, message: String, remedy: String) -> void:
		_label.text = "%s: %s. %s" % [code, message, remedy])
	_stream.welcomed.connect(func(world: Dictionary) -> void:
		_label.text = "" if world["depth"] else \
				"This world sends no depth: the ball stands in front of everything.")
	_stream.frame_shown.connect(_on_frame_shown)
	_stream.play()


func _process(delta: float) -> void:
	_seconds += delta
	var side := -REACH * sin(_seconds * TAU / SECONDS)
	_ball.global_position = _place * Vector3(side, RADIUS - _place.origin.y, 0)


func _on_frame_shown(_header: Dictionary) -> void:
	if not _ball.visible: # the first frame: the ball's way lies across the view
		var eye: Transform3D = _stream.frame_transform()
		var ahead := -eye.basis.z * float(_options.get("distance", "10"))
		_place = Transform3D(eye.basis, eye.origin + ahead)
		_ball.visible = true
	if not _options.has("screenshot") or _stream.statistics()["shown"] != int(_options.get("after", "60")):
		return
	await RenderingServer.frame_post_draw
	get_viewport().get_texture().get_image().save_png(_options["screenshot"])
	get_tree().quit()
