using UnityEditor;
using UnityEngine;

namespace WorldBridge.Editor
{
    /// <summary>Show a stream's state, rates and last error below its settings.</summary>
    [CustomEditor(typeof(WorldStream))]
    public sealed class WorldStreamEditor : UnityEditor.Editor
    {
        /// <inheritdoc/>
        public override bool RequiresConstantRepaint() => Application.isPlaying;

        /// <inheritdoc/>
        public override void OnInspectorGUI()
        {
            DrawDefaultInspector();
            if (!Application.isPlaying) return;
            var stream = (WorldStream)target;
            WorldClient client = stream.Client;
            EditorGUILayout.Space();
            EditorGUILayout.LabelField("State", stream.State.ToString());
            if (client == null) return;
            EditorGUILayout.LabelField("Detail", client.Detail);
            EditorGUILayout.LabelField("Frames shown", stream.FramesShown.ToString());
            EditorGUILayout.LabelField("Frames replaced", client.Replaced.ToString());
            EditorGUILayout.LabelField("Round trip", $"{client.RoundTrip:0.0} ms");
            ProtocolError error = client.Error;
            if (error == null) return;
            EditorGUILayout.HelpBox(
                $"{error.Code}: {error.Message}\nexpected: {error.Expected}\ngot: {error.Got}\n{error.Remedy}",
                MessageType.Error
            );
        }
    }
}
