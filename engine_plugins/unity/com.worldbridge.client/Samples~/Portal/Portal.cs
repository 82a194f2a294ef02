using System.Collections;
using UnityEngine;

namespace WorldBridge.Samples
{
    /// <summary>
    /// Open a world that begins with what a camera of the scene sees, and show it on a surface such
    /// as a quad. Switch off "Play On Enable" of the <see cref="WorldStream"/>; the server's world
    /// must take prompt frames.
    /// </summary>
    [RequireComponent(typeof(WorldStream))]
    public sealed class Portal : MonoBehaviour
    {
        [SerializeField]
        [Tooltip("The camera whose view the world begins with.")]
        private Camera view;

        [SerializeField]
        [Tooltip("The surface that shows the world.")]
        private Renderer surface;

        [SerializeField]
        [Tooltip("Size of the prompt frame in pixels.")]
        private Vector2Int size = new Vector2Int(640, 384);

        private WorldStream stream;

        private void Awake()
        {
            stream = GetComponent<WorldStream>();
            stream.TextureChanged.AddListener(OnTextureChanged);
        }

        private IEnumerator Start()
        {
            yield return new WaitForEndOfFrame();
            stream.Play(new[] { SceneImage.Png(view, size.x, size.y) });
        }

        private void OnDestroy() => stream.TextureChanged.RemoveListener(OnTextureChanged);

        private void OnTextureChanged() => surface.material.mainTexture = stream.Texture;
    }
}
