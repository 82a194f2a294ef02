@tool
extends EditorPlugin
## Offers the node WorldStream in the editor's list of nodes.


func _enter_tree() -> void:
	add_custom_type("WorldStream", "Node", preload("world_stream.gd"),
			EditorInterface.get_editor_theme().get_icon("Node", "EditorIcons"))


func _exit_tree() -> void:
	remove_custom_type("WorldStream")
