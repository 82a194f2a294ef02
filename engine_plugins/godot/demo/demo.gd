extends Control
## Walks through a world: `godot --path . -- --server=127.0.0.1:8080 [--theme=city] [--seed=1]
## [--screenshot=FILE --after=FRAMES]`. A click captures the pointer, Escape releases it.

@onready var _stream: Node = $WorldStream
@onready var _label: Label = $Label

var _options := {}
var _error := ""


func _ready() -> void:
	for argument in OS.get_cmdline_user_args():
		var parts := argument.trim_prefix("--").split("=", true, 1)
		_options[parts[0]] = parts[1] if parts.size() > 1 else ""
	_stream.server = _options.get("server", _stream.server)
	_stream.theme = _options.get("theme", "")
	_stream.world_seed = int(_options.get("seed", "-1"))
	_stream.failed.connect(func(code: String, message: String, remedy: String) -> void:
		_error = "%s: %s. %s" % [code, message, remedy])
	_stream.frame_shown.connect(_on_frame_shown)
	_stream.play()


func _process(_delta: float) -> void:
	var numbers: Dictionary = _stream.statistics()
	_label.text = "%s   %d frames   round trip %.1f ms\n%s" % [
		_stream.state, numbers["shown"], numbers.get("rtt", NAN), _error]


func _unhandled_input(event: InputEvent) -> void:
	if event is InputEventMouseButton and event.pressed:
		Input.mouse_mode = Input.MOUSE_MODE_CAPTURED
	elif event.is_action_pressed("ui_cancel"):
		Input.mouse_mode = Input.MOUSE_MODE_VISIBLE


func _on_frame_shown(_header: Dictionary) -> void:
	if not _options.has("screenshot") or _stream.statistics()["shown"] != int(_options.get("after", "60")):
		return
	await RenderingServer.frame_post_draw
	get_viewport().get_texture().get_image().save_png(_options["screenshot"])
	get_tree().quit()
